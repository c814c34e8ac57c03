#pragma once
// The first SIGINT, SIGTERM, SIGUSR1 or SIGHUP asks for an orderly stop; a second one ends the process at
// once. (mpirun passes SIGUSR1 on and lets its ranks live; on the others it kills them. SIGHUP says that the
// terminal is gone, often twice, from the shell and from the system: so that one never ends a process at
// once. It is nothing to one that nohup made ignore it.) Thread: main.

namespace coppice {

class StopOnSignal {
 public:
  StopOnSignal();
  static bool asked();
  // Ends the process by the signal that asked, for a command that has put its things away and has nothing to
  // go on with: whoever sent it sees what it expects.
  [[noreturn]] static void follow();
};

}  // namespace coppice
