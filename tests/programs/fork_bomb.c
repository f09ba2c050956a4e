/* while (1) fork(), as long as more may be made (RLIMIT_NPROC does not bind root: pids.max does);
 * then all end. */
#include <signal.h>
#include <unistd.h>

int main(void) {
    setpgid(0, 0);
    for (;;) {
        if (fork() < 0) {
            kill(0, SIGKILL);
            pause();
        }
    }
}
