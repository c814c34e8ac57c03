// What a server costs that has been up for long: the processor's time of a step beside jobs that have ended
// and others that wait; beside thousands it should be about what it is beside ten.

#include <benchmark/benchmark.h>

#include "tests/unit/coordinator/engine_rig.h"

namespace coppice {
namespace {

constexpr int64_t kRoom = 4;  // jobs that run at a time

// Arguments: jobs that have ended, jobs that wait.
void beside_many(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"ended", "queued"})->Args({10, 10})->Args({5000, 1000});
  benchmark->UseManualTime()->Iterations(1)->Unit(benchmark::kMicrosecond);
}

// Of jobs that run on and on, while the others wait.
void endless_step(benchmark::State& state) {
  EngineRig server(kRoom);
  server.add_ended(int(state.range(0)));
  server.submit_many(int(kRoom), 1'000'000, "endless");
  server.submit_many(int(state.range(1)), 1, "queued");
  server.seconds_per_step(50);
  for (auto _ : state) state.SetIterationTime(server.seconds_per_step(200));
}
BENCHMARK(endless_step)->Apply(beside_many);

// Of jobs of one step, so that each step ends one job and lets the next in.
void last_step(benchmark::State& state) {
  EngineRig server(kRoom);
  server.add_ended(int(state.range(0)));
  server.submit_many(int(state.range(1)) + 100, 1, "short");
  for (auto _ : state) state.SetIterationTime(server.seconds_per_step(100));
}
BENCHMARK(last_step)->Apply(beside_many);

}  // namespace
}  // namespace coppice

BENCHMARK_MAIN();
