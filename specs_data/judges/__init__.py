r"""Is the answer right? By rule (`rules`), or by a model (`model`).

The policy of the rules, in full; each part of it stands in the code once.

- Whole numbers and fractions are compared exactly. 0 is not 0.0000001.
- Decimals are compared exactly up to floating-point noise (1e-9 of the gold, and 1e-9 at most).
- Significant digits: a gold written as a decimal with at least three is met by an answer that is more precise and
  rounds to it (gold 3.14, answer 3.1416). An answer less precise than the gold is wrong. An exact gold that has no
  finite decimal (1/3, \sqrt2) is met by a decimal of at least three that rounds it correctly (0.333).
- Where the problem has a policy of its own (`records.Policy`; MathVista's columns `precision` and `unit` make one):
  rounded to the decimal places it asks for, an answer need only give the gold; the gold is in its unit; and within its
  relative tolerance an answer is right. There is no tolerance that is not asked for.
- A unit that only one side has is forgiven. Two units are converted; where they cannot be, the answer is wrong.
- A percent sign is a unit that only one side may have, and it is also a factor: 50% is 0.5, and 5% is 5 as well as
  0.05. For a gold below 1 it is a factor only: 0.5% is not 1/2. Two percentages are compared as they stand.
- A comma or a space before groups of three digits separates thousands; a decimal comma is not read.
- A root or pi is known to 60 digits and the same where 40 agree. An angle in degrees may be met in parts of pi.
- `a - b` of two plain numbers is a range, a score or a date and no number.
- Order of lists: a bare list is a tuple `(1, 2)` in the same order and a set in any, never an interval; two bare lists
  are the same in any order, but each value as often. Braces are never a tuple.
- A ratio is the fraction of its terms (2:3, 2/3, 4:6) unless it looks like a clock time (3:45), which is told by its
  digits alone; with AM or PM it is the same by the clock of 24 hours. In a text each term of a ratio counts.
- Words are compared without case, punctuation and a leading article; a minus sign is never folded away.
- A choice is told by its letter, its content, or both, which must agree.
"""
