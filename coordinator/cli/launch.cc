#include "coordinator/cli/launch.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "common/base/error.h"
#include "common/transport/mpi.h"

namespace coppice {
namespace {

constexpr auto kIdle = std::chrono::microseconds(100);
constexpr double kGoodbye_s = 10;  // a rank may be in the middle of a pack

int ranks_on_this_host(int size) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && std::atoi(value) > 0) return std::atoi(value);
  }
  return size;
}

}  // namespace

struct Launch::Mpi {
  std::unique_ptr<Rank> rank;  // of one that follows; goes last: what is being sent may lie in its memory
  MpiRuntime runtime;
  std::unique_ptr<Transport> transport = runtime.transport();
};

Launch::Launch() {
  if (!MpiRuntime::launched()) return;
  die_with_launcher();
  mpi_ = std::make_unique<Mpi>();
  following_ = leads() && mpi_->transport->size() > 1;
}

Launch::~Launch() {
  if (!following_) return;
  ClusterShape shape;
  shape.stages = mpi_->transport->size() - 1;
  try {
    if (Cluster(*mpi_->transport, shape).shut_down(kGoodbye_s, [](const Message&) {})) return;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "coppice: %s\n", error.what());
  }
  mpi_->runtime.abort(EXIT_FAILURE);
}

bool Launch::leads() const {
  return !mpi_ || mpi_->transport->rank() == 0;
}

// Signals are for the coordinator: it stops in order and sends this rank home.
int Launch::follow() {
  for (int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) std::signal(signal, SIG_IGN);
  mpi_->rank = std::make_unique<Rank>(*mpi_->transport);
  while (!mpi_->rank->stopped()) {
    if (!mpi_->rank->poll()) std::this_thread::sleep_for(kIdle);
  }
  return EXIT_SUCCESS;
}

int Launch::default_threads(const ClusterShape& shape) const {
  const int cores = usable_cores();
  if (!mpi_) return cores;
  const int here = ranks_on_this_host(mpi_->transport->size());
  const int idle = here == shape.ranks() ? 1 + shape.shards : 0;  // ranks that compute little
  return std::max(1, cores / std::max(1, here - idle));
}

std::unique_ptr<Cluster> Launch::cluster(Device& device, const ClusterShape& shape) {
  if (!mpi_) return std::make_unique<Cluster>(device, shape);
  if (mpi_->transport->size() != shape.ranks()) {
    throw invalid("{} ranks were launched; {} are needed", mpi_->transport->size(), shape.formula());
  }
  return std::make_unique<Cluster>(*mpi_->transport, shape);
}

}  // namespace coppice
