// Included before all else where sources are compiled with the names of POSIX alone: what the
// headers of libstdc++ and Asio cannot do without, of what glibc has besides.

#include <netinet/in.h>
#include <pthread.h>
#include <time.h>

extern "C" {
int pthread_cond_clockwait(pthread_cond_t*, pthread_mutex_t*, clockid_t, const timespec*);
int pthread_mutex_clocklock(pthread_mutex_t*, clockid_t, const timespec*);
long syscall(long, ...) noexcept;
}

struct ip_mreq {
  in_addr imr_multiaddr, imr_interface;
};

#define HOST_NOT_FOUND 1
#define TRY_AGAIN 2
#define NO_RECOVERY 3
#define NO_DATA 4
