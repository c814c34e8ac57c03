// Round trips between two ranks over MPI, by size of the block, for a receiver that looks all the time and
// for one that sleeps between two looks, as an idle rank does:
//   mpirun -n 2 --oversubscribe --bind-to none transport_bench

#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "common/base/error.h"
#include "common/transport/mpi.h"

namespace coppice {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Message wait_for_one(Transport& transport, int sleep_us) {
  for (int looks = 0;; ++looks) {
    if (auto message = transport.receive()) return std::move(*message);
    if (sleep_us > 0 && looks > 20) std::this_thread::sleep_for(std::chrono::microseconds(sleep_us));
  }
}

// The block that came goes back; returns seconds a round trip.
double round_trip_seconds(Transport& transport, size_t bytes, int times, int sleep_us) {
  Message message;
  if (bytes > 0) message.payload.push_back(std::make_unique<BytesPayload>(std::vector<std::byte>(bytes)));
  const int other = 1 - transport.rank();
  double begin = 0;
  for (int i = -times / 10 - 1; i < times; ++i) {  // the first ones warm up
    if (i == 0) begin = now_seconds();
    if (transport.rank() == 0) transport.send(other, std::move(message));
    message = wait_for_one(transport, sleep_us);
    if (transport.rank() == 1) transport.send(other, std::move(message));
  }
  return (now_seconds() - begin) / times;
}

// What a look costs that finds nothing.
double look_seconds(Transport& transport) {
  constexpr int kLooks = 100000;
  const double begin = now_seconds();
  for (int i = 0; i < kLooks; ++i) transport.progress();
  return (now_seconds() - begin) / kLooks;
}

void measure(Transport& transport) {
  const bool speaks = transport.rank() == 0;
  if (speaks)
    std::printf("%12s %10s %16s %12s\n", "block bytes", "sleep us", "round trip us", "MB/s one way");
  for (const int sleep_us : {0, 50, 200}) {
    for (const size_t bytes :
         {size_t(0), size_t(1000), size_t(64) << 10, size_t(1) << 20, size_t(8) << 20, size_t(64) << 20}) {
      const int times = bytes < (1 << 20) ? 2000 : bytes < (16 << 20) ? 100 : 10;
      const double seconds = round_trip_seconds(transport, bytes, times, sleep_us);
      if (speaks)
        std::printf("%12zu %10d %16.1f %12.0f\n", bytes, sleep_us, seconds * 1e6,
                    2e-6 * double(bytes) / seconds);
    }
  }
  const double look = look_seconds(transport);
  if (speaks) std::printf("a look that finds nothing: %.2f us\n", look * 1e6);
}

}  // namespace
}  // namespace coppice

int main() {
  using namespace coppice;
  MpiRuntime runtime;
  if (runtime.size() != 2) {
    std::fprintf(stderr, "%d ranks; 2 are accepted\n", runtime.size());
    return 2;
  }
  try {
    measure(*runtime.transport());
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    runtime.abort(1);
  }
}
