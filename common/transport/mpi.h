#pragma once
// MPI as this process sees it. Nothing is initialised unless a launcher (mpirun, srun) has started the
// process: without one Coppice never calls MPI.
//
// Thread: all calls and the transport's from the thread that made it (MPI_THREAD_FUNNELED). Errors:
// kUnsupported where the MPI library offers less.

#include <memory>

#include "common/transport/transport.h"

namespace coppice {

class MpiRuntime {
 public:
  static bool launched();      // by mpirun or srun, from the environment they set; calls no MPI
  static int launched_rank();  // in the same way; 0 where nothing is said

  MpiRuntime();
  ~MpiRuntime();  // leaves MPI when all ranks do; after abort() never reached
  MpiRuntime(const MpiRuntime&) = delete;

  int rank() const;
  int size() const;
  std::unique_ptr<Transport> transport();    // of all ranks; at most one, gone before this
  [[noreturn]] void abort(int exit_status);  // ends all ranks at once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// From now on this process is killed when its parent (the launcher) is gone.
void die_with_launcher();

}  // namespace coppice
