/* A file system that refuses: preloaded, it has calls on files below FAULTY_FOLDER fail as the file FAULTY_HOW says.

   FAULTY_HOW holds words: a kind of call (chmod, lock, flush, all), and the number of the error. It is read at every
   call, so that a file system can go bad in the middle of a run. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path)
{
    const char *folder = getenv("FAULTY_FOLDER");
    return folder && path && !strncmp(path, folder, strlen(folder));
}

static int below_descriptor(int descriptor)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

static int fails(const char *kind)
{
    char said[32] = "";
    int number = 0, before = errno;
    FILE *file = REAL(fopen)(getenv("FAULTY_HOW"), "r");
    if (file) {
        if (fscanf(file, "%31s %d", said, &number) != 2)
            number = 0;
        fclose(file);
    }
    errno = before;
    if (!number || (strcmp(said, kind) && strcmp(said, "all")))
        return 0;
    errno = number;
    return 1;
}

int chmod(const char *path, mode_t mode) { return below(path) && fails("chmod") ? -1 : REAL(chmod)(path, mode); }
int fchmod(int d, mode_t mode) { return below_descriptor(d) && fails("chmod") ? -1 : REAL(fchmod)(d, mode); }
int fchmodat(int d, const char *path, mode_t mode, int flags)
{
    return below(path) && fails("chmod") ? -1 : REAL(fchmodat)(d, path, mode, flags);
}
int fsync(int d)
{
    struct stat status;
    int folder = !fstat(d, &status) && S_ISDIR(status.st_mode);
    return below_descriptor(d) && fails(folder ? "flush" : "flush-file") ? -1 : REAL(fsync)(d);
}
int rename(const char *from, const char *to) { return below(to) && fails("rename") ? -1 : REAL(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { return below(path) && fails("mkdir") ? -1 : REAL(mkdir)(path, mode); }
int unlink(const char *path) { return below(path) && fails("unlink") ? -1 : REAL(unlink)(path); }
int stat(const char *path, struct stat *into) { return below(path) && fails("stat") ? -1 : REAL(stat)(path, into); }
int lstat(const char *path, struct stat *into) { return below(path) && fails("stat") ? -1 : REAL(lstat)(path, into); }
int fstatat(int d, const char *path, struct stat *into, int flags)
{
    return below(path) && fails("stat") ? -1 : REAL(fstatat)(d, path, into, flags);
}
int stat64(const char *path, struct stat64 *into) { return below(path) && fails("stat") ? -1 : REAL(stat64)(path, into); }
int lstat64(const char *path, struct stat64 *into)
{
    return below(path) && fails("stat") ? -1 : REAL(lstat64)(path, into);
}
int fstatat64(int d, const char *path, struct stat64 *into, int flags)
{
    return below(path) && fails("stat") ? -1 : REAL(fstatat64)(d, path, into, flags);
}

static int opened(const char *path, int flags, mode_t mode)
{
    if (below(path) && fails("open"))
        return -1;
    return REAL(openat)(AT_FDCWD, path, flags, mode);
}
#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }
int open(const char *path, int flags, ...) { MODE(flags) return opened(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(path, flags | O_LARGEFILE, mode); }

int fcntl64(int d, int command, ...)
{
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (command == F_OFD_SETLK && below_descriptor(d) && fails("lock"))
        return -1;
    return REAL(fcntl64)(d, command, argument);
}
int fcntl(int d, int command, ...)
{
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (command == F_OFD_SETLK && below_descriptor(d) && fails("lock"))
        return -1;
    return REAL(fcntl)(d, command, argument);
}
