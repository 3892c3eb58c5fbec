#include "train/run/signals.h"

#include <signal.h>
#include <unistd.h>

#include <initializer_list>

namespace jambalaya {

namespace {
volatile sig_atomic_t requested = 0, interrupted = 0;

void on_signal(int number) {
  if (number == SIGINT && interrupted) _exit(130);  // also when another signal came between the two
  if (number == SIGINT) interrupted = 1;
  requested = number;
}
}  // namespace

void watch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (int number : {SIGTERM, SIGUSR1, SIGINT}) sigaction(number, &action, nullptr);
}

int stop_signal() { return requested; }

}  // namespace jambalaya
