// The same checks, one rank a process: started by mpiexec. A rank that fails ends them all.

#include <gtest/gtest.h>

#include <chrono>
#include <iostream>
#include <random>
#include <thread>

#include "common/base/error.h"
#include "common/transport/mpi.h"
#include "tests/contract/transport/party.h"

namespace coppice {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

class MpiContractTest : public testing::Test {
 public:
  MpiContractTest(Transport& transport, Inbox& inbox, const Pattern& pattern, uint32_t check)
      : transport_(transport), inbox_(inbox), pattern_(pattern), check_(check) {}

  void TestBody() override {
    const uint64_t seed = std::random_device{}();
    std::cout << "rank " << transport_.rank() << ": seed " << seed << std::endl;
    const auto end = std::chrono::steady_clock::now() + kPatience;
    Party party(transport_, inbox_, pattern_, check_, seed);
    while (party.step()) {
      if (HasFailure()) return;
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "rank " << transport_.rank() << " waited too long";
      if (++steps_ % 64 == 0) std::this_thread::yield();
    }
  }

 private:
  Transport& transport_;
  Inbox& inbox_;
  const Pattern& pattern_;
  uint32_t check_;
  uint64_t steps_ = 0;
};

int run_checks(MpiRuntime& runtime) {
  if (!MpiRuntime::launched()) {
    std::cerr << "to be started by mpiexec\n";
    return 2;
  }
  const auto transport = runtime.transport();
  Inbox inbox;
  uint32_t check = 0;
  for (const Pattern& pattern : patterns()) {
    ++check;
    testing::RegisterTest("MpiContractTest", pattern.name, nullptr, nullptr, __FILE__, __LINE__,
                          [&, check] { return new MpiContractTest(*transport, inbox, pattern, check); });
  }
  if (runtime.rank() != 0) {  // the others speak when they fail
    delete testing::UnitTest::GetInstance()->listeners().Release(
        testing::UnitTest::GetInstance()->listeners().default_result_printer());
    class Failures : public testing::EmptyTestEventListener {
      void OnTestPartResult(const testing::TestPartResult& result) override {
        if (result.failed())
          std::cerr << result.file_name() << ":" << result.line_number() << ": " << result.message()
                    << std::endl;
      }
    };
    testing::UnitTest::GetInstance()->listeners().Append(new Failures);
  }
  testing::GTEST_FLAG(break_on_failure) = false;
  const int status = RUN_ALL_TESTS();
  if (status != 0) runtime.abort(status);
  return status;
}

}  // namespace
}  // namespace coppice

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  coppice::MpiRuntime runtime;
  try {
    return coppice::run_checks(runtime);
  } catch (const coppice::Error& error) {
    std::cerr << error.what() << std::endl;
    runtime.abort(1);
  }
}
