"""The name that `specs_data.build.run` had before; it goes with the next release."""

from specs_data.build.run import Built, build, forecast, load_run

__all__ = ["Built", "build", "forecast", "load_run"]
