// A file system that does not answer while the file $FROZEN_FLAG exists. Preloaded into programs named $FROZEN_PROGRAM, it
// holds up calls on paths below $FROZEN_FOLDER. All other calls and programs are as fast as without it.
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

static int is_frozen_program(void) {
  const char* wanted = getenv("FROZEN_PROGRAM");
  return wanted && strcmp(program_invocation_short_name, wanted) == 0;
}

static void hold(const char* path) {
  const char *flag = getenv("FROZEN_FLAG"), *folder = getenv("FROZEN_FOLDER");
  if (!flag || !folder || !path || strncmp(path, folder, strlen(folder)) != 0 || !is_frozen_program()) return;
  while (access(flag, F_OK) == 0) usleep(20000);
}

static void hold_fd(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = 0;
  hold(path);
}

#define NEXT(name) __typeof__(&name) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPEN(name)                            \
  int name(const char* path, int flags, ...) { \
    NEXT(name);                               \
    va_list more;                             \
    va_start(more, flags);                    \
    mode_t mode = va_arg(more, mode_t);       \
    va_end(more);                             \
    hold(path);                               \
    return next(path, flags, mode);           \
  }
OPEN(open)
OPEN(open64)

int mkdir(const char* path, mode_t mode) { NEXT(mkdir); hold(path); return next(path, mode); }
int unlink(const char* path) { NEXT(unlink); hold(path); return next(path); }
int rename(const char* from, const char* to) { NEXT(rename); hold(to); return next(from, to); }
int fsync(int fd) { NEXT(fsync); hold_fd(fd); return next(fd); }
ssize_t write(int fd, const void* bytes, size_t count) { NEXT(write); hold_fd(fd); return next(fd, bytes, count); }
