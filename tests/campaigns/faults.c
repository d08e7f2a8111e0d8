/* A layer over libc that lets calls fail which write in one folder: cc -shared -fPIC -o faults.so faults.c -ldl
   Preloaded, it does nothing until a process calls `arm_faults`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX], gone[PATH_MAX];
static long first, calls;
static int number, lasting, armed;

/* From the call `nth` on (counted from 1; 0: none) calls that write in `in` fail with `error`; only that one unless `stay`.
   If `moved` is not empty, the folder is renamed to it at that call instead. */
void arm_faults(const char *in, long nth, int error, int stay, const char *moved) {
    snprintf(folder, sizeof folder, "%s", in);
    snprintf(gone, sizeof gone, "%s", moved);
    first = nth, number = error, lasting = stay, calls = 0, armed = 1;
}

long counted_calls(void) { return calls; }

static int within(const char *path) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

/* Whether this call fails; sets errno. */
static int fails(const char *path) {
    if (!within(path)) return 0;
    long call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (!first || call < first) return 0;
    if (*gone) {
        if (call == first) {
            int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
            real(folder, gone);
        }
        return 0;
    }
    if (call > first && !lasting) return 0;
    errno = number;
    return 1;
}

static int path_fails(int at, const char *path) {
    char here[PATH_MAX], all[2 * PATH_MAX];
    if (!armed || !path) return 0;
    if (*path == '/') return fails(path);
    if (at == AT_FDCWD) {
        if (!getcwd(here, sizeof here)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, here, sizeof here - 1);
        if (n < 0) return 0;
        here[n] = 0;
    }
    snprintf(all, sizeof all, "%s/%s", here, path);
    return fails(all);
}

static int fd_fails(int fd) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return fails(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        va_list rest;                                               \
        va_start(rest, flags);                                      \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;   \
        va_end(rest);                                               \
        if ((flags & WRITES) && path_fails(AT_FDCWD, path)) return -1; \
        return REAL(name)(path, flags, mode);                       \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                \
    int name(int at, const char *path, int flags, ...) {            \
        va_list rest;                                               \
        va_start(rest, flags);                                      \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;   \
        va_end(rest);                                               \
        if ((flags & WRITES) && path_fails(at, path)) return -1;    \
        return REAL(name)(at, path, flags, mode);                   \
    }
OPENAT(openat)
OPENAT(openat64)

#define STREAM(name)                                                \
    FILE *name(const char *path, const char *mode) {                \
        if (*mode != 'r' && path_fails(AT_FDCWD, path)) return NULL; \
        return REAL(name)(path, mode);                              \
    }
STREAM(fopen)
STREAM(fopen64)

#define ON_FD(type, name, parameters, arguments)                    \
    type name parameters { return fd_fails(fd) ? -1 : REAL(name) arguments; }
ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, writev, (int fd, const struct iovec *data, int size), (fd, data, size))
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, pwritev, (int fd, const struct iovec *data, int size, off_t at), (fd, data, size, at))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size))

int mkdir(const char *path, mode_t mode) { return path_fails(AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return path_fails(at, path) ? -1 : REAL(mkdirat)(at, path, mode); }
int rename(const char *old, const char *new) { return path_fails(AT_FDCWD, new) ? -1 : REAL(rename)(old, new); }
int renameat(int from, const char *old, int to, const char *new) {
    return path_fails(to, new) ? -1 : REAL(renameat)(from, old, to, new);
}
int link(const char *old, const char *new) { return path_fails(AT_FDCWD, new) ? -1 : REAL(link)(old, new); }
