/* A disk that breaks. Loaded into a process by LD_PRELOAD, it counts every call that changes something under a folder,
 * and lets the one that it is told to fail, or that one and all after it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct state {
    long seen, fault;
    int error, once;
    char under[PATH_MAX], what[PATH_MAX + 32];
};
static struct state *shared;

__attribute__((constructor)) static void begin(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared->fault = -1;
}

/* From now on calls under `folder` are counted from 0, and call number `fault` fails with `error` (-1: none does). */
void broken_disk_arm(const char *folder, long fault, int error, int once) {
    strncpy(shared->under, folder, PATH_MAX - 1);
    shared->error = error, shared->once = once, shared->seen = 0, shared->fault = fault;
    shared->what[0] = 0;
}

long broken_disk_seen(void) { return shared->seen; }
const char *broken_disk_what(void) { return shared->what; }

static int fails(const char *call, const char *path) {
    if (!shared || !shared->under[0] || strncmp(path, shared->under, strlen(shared->under))) return 0;
    long number = __atomic_fetch_add(&shared->seen, 1, __ATOMIC_SEQ_CST);
    if (shared->fault < 0 || number < shared->fault || (shared->once && number > shared->fault)) return 0;
    if (number == shared->fault) snprintf(shared->what, sizeof shared->what, "%s %s", call, path);
    errno = shared->error;
    return 1;
}

static int fails_at(const char *call, int folder, const char *path) {
    char whole[2 * PATH_MAX + 2], link[64];
    if (path[0] == '/') return fails(call, path);
    if (folder == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, whole, PATH_MAX);
        if (length < 0) return 0;
        whole[length] = 0;
    }
    size_t length = strlen(whole);
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    return fails(call, whole);
}

static int fails_on(const char *call, int file) { 
    char whole[PATH_MAX + 1], link[64];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, whole, PATH_MAX);
    errno = before;
    if (length < 0) return 0;
    whole[length] = 0;
    return fails(call, whole);
}

#define REAL(name) (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define WRAP(kind, name, takes, gives, test)                    \
    kind name takes {                                           \
        static kind(*real) takes;                               \
        if (!real) real = (kind(*) takes)dlsym(RTLD_NEXT, #name); \
        return test ? (kind)-1 : real gives;                    \
    }

WRAP(ssize_t, write, (int f, const void *b, size_t n), (f, b, n), fails_on("write", f))
WRAP(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n), fails_on("write", f))
WRAP(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o), fails_on("write", f))
WRAP(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o), fails_on("write", f))
WRAP(int, fsync, (int f), (f), fails_on("sync", f))
WRAP(int, fdatasync, (int f), (f), fails_on("sync", f))
WRAP(int, ftruncate, (int f, off_t n), (f, n), fails_on("truncate", f))
WRAP(int, ftruncate64, (int f, off64_t n), (f, n), fails_on("truncate", f))
WRAP(int, rename, (const char *a, const char *b), (a, b), fails_at("rename", AT_FDCWD, a))
WRAP(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), fails_at("rename", d, a))
WRAP(int, mkdir, (const char *p, mode_t m), (p, m), fails_at("mkdir", AT_FDCWD, p))
WRAP(int, mkdirat, (int d, const char *p, mode_t m), (d, p, m), fails_at("mkdir", d, p))
WRAP(int, unlink, (const char *p), (p), fails_at("unlink", AT_FDCWD, p))
WRAP(int, unlinkat, (int d, const char *p, int f), (d, p, f), fails_at("unlink", d, p))
WRAP(int, rmdir, (const char *p), (p), fails_at("rmdir", AT_FDCWD, p))

#define CREATES(flags) ((flags) & (O_CREAT | O_TRUNC))
#define WRAP_OPEN(name, takes, folder, gives)                         \
    int name takes {                                                  \
        static int(*real)(int, const char *, int, mode_t);            \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        mode_t mode = flags & O_CREAT ? va_arg(rest, int) : 0;        \
        va_end(rest);                                                 \
        if (!real) real = dlsym(RTLD_NEXT, "openat64");               \
        if (CREATES(flags) && fails_at("open", folder, path)) return -1; \
        return real(folder, path, flags, mode);                       \
    }

WRAP_OPEN(open, (const char *path, int flags, ...), AT_FDCWD, )
WRAP_OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, )
WRAP_OPEN(openat, (int folder, const char *path, int flags, ...), folder, )
WRAP_OPEN(openat64, (int folder, const char *path, int flags, ...), folder, )
