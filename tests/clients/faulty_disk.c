/* Preloaded into the gateway, it makes what is done to the files below FAULT_PATH fail or wait.
 *
 * The file FAULT_CONTROL says what: lines of "write ERRNO", "sync ERRNO" or "sync hold"; an empty or missing file
 * means that all is well. While a sync is held, the file FAULT_CONTROL with ".held" behind its name exists.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int ours(int fd) {
  const char *path = getenv("FAULT_PATH");
  char link[64], target[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, target, sizeof target - 1);
  return path && length > 0 && strncmp(target, path, strlen(path)) == 0;
}

/* The number behind the word in the control file: 0 = not there, -1 = hold. */
static int fault(const char *word) {
  const char *path = getenv("FAULT_CONTROL");
  char text[256] = "";
  int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    text[length > 0 ? length : 0] = 0;
    syscall(SYS_close, fd);
  }
  char *found = strstr(text, word);
  if (!found) return 0;
  found += strlen(word) + 1;
  return strncmp(found, "hold", 4) == 0 ? -1 : atoi(found);
}

static int refused(int fd, const char *word) {
  int number = ours(fd) ? fault(word) : 0;
  if (number < 0) {
    char held[4096];
    snprintf(held, sizeof held, "%s.held", getenv("FAULT_CONTROL"));
    syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, held, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    while ((number = fault(word)) < 0) usleep(2000);
    unlink(held);
  }
  if (number > 0) errno = number;
  return number > 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define GUARDED(result, name, word, arguments, ...) \
  result name(__VA_ARGS__) { return refused(fd, word) ? -1 : NEXT(name) arguments; }

GUARDED(ssize_t, write, "write", (fd, data, size), int fd, const void *data, size_t size)
GUARDED(ssize_t, pwrite, "write", (fd, data, size, at), int fd, const void *data, size_t size, off_t at)
GUARDED(ssize_t, pwrite64, "write", (fd, data, size, at), int fd, const void *data, size_t size, off64_t at)
GUARDED(ssize_t, writev, "write", (fd, parts, count), int fd, const struct iovec *parts, int count)
GUARDED(ssize_t, pwritev, "write", (fd, parts, count, at), int fd, const struct iovec *parts, int count, off_t at)
GUARDED(ssize_t, pwritev64, "write", (fd, parts, count, at), int fd, const struct iovec *parts, int count, off64_t at)
GUARDED(int, fallocate, "write", (fd, mode, at, size), int fd, int mode, off_t at, off_t size)
GUARDED(int, fallocate64, "write", (fd, mode, at, size), int fd, int mode, off64_t at, off64_t size)
GUARDED(int, fsync, "sync", (fd), int fd)
GUARDED(int, fdatasync, "sync", (fd), int fd)
