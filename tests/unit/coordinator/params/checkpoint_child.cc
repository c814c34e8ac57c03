// A process that goes on from a store's HEAD and commits version after version, and prints each when its
// commit has returned, until it is killed.

#include <chrono>
#include <cstdio>
#include <thread>

#include "tests/unit/coordinator/params/states.h"

int main(int argc, char** argv) {
  using namespace coppice;
  if (argc != 2) return 2;
  const std::vector<Shape> shapes = {{64, 48}, {48}, {5000}};
  const auto store = open_rocksdb(argv[1]);
  CheckpointWriter writer(*store);
  const auto head = CheckpointReader(*store).head("tone");
  int64_t version = head ? head->version : -1;
  std::printf("begins after %lld\n", static_cast<long long>(version));
  std::fflush(stdout);
  for (;;) {
    const auto began = std::chrono::steady_clock::now();
    writer.commit(make_commit("tone", ++version, shapes));
    const auto took = std::chrono::steady_clock::now() - began;
    std::printf("%lld\n", static_cast<long long>(version));
    std::fflush(stdout);
    std::this_thread::sleep_for(took);  // a tenth of the engine's pause between two commits
  }
}
