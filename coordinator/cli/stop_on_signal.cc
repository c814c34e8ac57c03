#include "coordinator/cli/stop_on_signal.h"

#include <csignal>
#include <cstdlib>
#include <initializer_list>

#include "common/base/check.h"

namespace coppice {
namespace {

volatile std::sig_atomic_t stop_signal = 0;  // the one thing that a signal handler may write

}  // namespace

StopOnSignal::StopOnSignal() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { stop_signal = signal; };
  struct sigaction inherited {};
  sigaction(SIGHUP, nullptr, &inherited);
  if (inherited.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);
  action.sa_flags = int(SA_RESETHAND);
  for (int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

bool StopOnSignal::asked() {
  return stop_signal != 0;
}

void StopOnSignal::follow() {
  CHECK(asked());
  std::signal(stop_signal, SIG_DFL);
  std::raise(stop_signal);
  std::abort();
}

}  // namespace coppice
