/* Preloaded into the gateway, it sets the wall clock off by WALL_CLOCK_OFFSET_S seconds.
 *
 * Only the wall clock: the monotonic one, by which a process measures how long things take, is as it was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  static long offset;
  if (!real) {
    const char *text = getenv("WALL_CLOCK_OFFSET_S");
    offset = text ? atol(text) : 0;
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  }
  int result = real(clock, now);
  if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += offset;
  return result;
}
