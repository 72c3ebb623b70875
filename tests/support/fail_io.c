/* A disk that fails when it is told to: loaded before the C library, it lets the
 * calls that write to files of a folder pass, tells of each in a log, and fails
 * those that were chosen.
 *
 *   FAIL_IN     the folder
 *   FAIL_LOG    a file: one line `OPERATION NAME` a call, `FAILED` behind one that
 *               failed
 *   FAIL_OP     of this operation: open, write, sync, truncate
 *   FAIL_NAME   on files of this name, a pattern as of fnmatch; the folder is `.`
 *   FAIL_FROM   from this call on, counted from 1
 *   FAIL_WITH   with this errno
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *folder, *operation, *name_pattern;
static long from, with;
static int log_file = -1;
static atomic_long met;

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("FAIL_LOG");
    folder = getenv("FAIL_IN");
    operation = getenv("FAIL_OP");
    name_pattern = getenv("FAIL_NAME");
    from = atol(getenv("FAIL_FROM") ? getenv("FAIL_FROM") : "0");
    with = atol(getenv("FAIL_WITH") ? getenv("FAIL_WITH") : "0");
    if (log)
        log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int fails(const char *what, const char *path) {
    char line[512];
    if (!folder || strncmp(path, folder, strlen(folder)) != 0)
        return 0;
    const char *name = path[strlen(folder)] ? strrchr(path, '/') + 1 : ".";
    int chosen = operation && name_pattern && strcmp(what, operation) == 0
        && fnmatch(name_pattern, name, 0) == 0 && atomic_fetch_add(&met, 1) + 1 >= from;
    int length = snprintf(line, sizeof line, "%s %.400s%s\n", what, name, chosen ? " FAILED" : "");
    syscall(SYS_write, log_file, line, length);
    if (chosen)
        errno = with;
    return chosen;
}

static int fails_at(const char *what, int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(what, path);
}

#define REAL(call) ((__typeof__(&call))dlsym(RTLD_NEXT, #call))

ssize_t write(int file, const void *bytes, size_t length) {
    return fails_at("write", file) ? -1 : REAL(write)(file, bytes, length);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    return fails_at("write", file) ? -1 : REAL(writev)(file, parts, count);
}
ssize_t pwrite(int file, const void *bytes, size_t length, off_t at) {
    return fails_at("write", file) ? -1 : REAL(pwrite)(file, bytes, length, at);
}
ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t at) {
    return fails_at("write", file) ? -1 : REAL(pwrite64)(file, bytes, length, at);
}
int fsync(int file) {
    return fails_at("sync", file) ? -1 : REAL(fsync)(file);
}
int fdatasync(int file) {
    return fails_at("sync", file) ? -1 : REAL(fdatasync)(file);
}
int ftruncate(int file, off_t length) {
    return fails_at("truncate", file) ? -1 : REAL(ftruncate)(file, length);
}
int ftruncate64(int file, off64_t length) {
    return fails_at("truncate", file) ? -1 : REAL(ftruncate64)(file, length);
}

/* Only files that are opened to be written. */
static int fails_open(const char *path, int flags) {
    char whole[8192];
    if (!(flags & O_CREAT))
        return 0;
    if (path[0] == '/')
        return fails("open", path);
    if (!getcwd(whole, 4096) || strlen(path) > 4000)
        return 0;
    strcat(strcat(whole, "/"), path);
    return fails("open", whole);
}
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return fails_open(path, flags) ? -1 : REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return fails_open(path, flags) ? -1 : REAL(open64)(path, flags, mode);
}
