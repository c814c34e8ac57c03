// A rank that goes while nobody takes what it sent: it waits a bounded time, and MPI ends in order. Started
// by mpiexec with two ranks.

#include <chrono>
#include <iostream>
#include <memory>
#include <vector>

#include "common/transport/mpi.h"

int main() {
  using namespace coppice;
  MpiRuntime runtime;
  auto transport = runtime.transport();
  if (runtime.rank() != 0) {
    transport.reset();
    return 0;  // waits in the runtime's end until rank 0 is there
  }
  Message message;
  message.payload.push_back(std::make_unique<BytesPayload>(std::vector<std::byte>(size_t(32) << 20)));
  transport->send(1, std::move(message));
  const auto begin = std::chrono::steady_clock::now();
  transport.reset();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::cout << "gone after " << seconds << " s\n";
  return seconds > 4 && seconds < 10 ? 0 : 1;
}
