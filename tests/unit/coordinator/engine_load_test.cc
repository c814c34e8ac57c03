// What a server costs that has been up for long: beside thousands of jobs that have ended and a thousand that
// wait, a step takes the processor about as long as beside ten.

#include "tests/unit/coordinator/engine_rig.h"

namespace coppice {
namespace {

struct Load {
  int ended = 0, queued = 0;
};

// Of jobs that run on and on, while the others wait.
double endless_step(const Load& load) {
  EngineRig server(4);
  server.add_ended(load.ended);
  server.submit_many(4, 1'000'000, "endless");
  server.submit_many(load.queued, 1, "queued");
  server.seconds_per_step(50);
  return server.seconds_per_step(200);
}

// Of jobs of one step, so that each step ends one job and lets the next in.
double last_step(const Load& load) {
  EngineRig server(4);
  server.add_ended(load.ended);
  server.submit_many(load.queued + 100, 1, "short");
  return server.seconds_per_step(100);
}

TEST(EngineLoadTest, AStepCostsTheSameBesideThousandsOfJobs) {
  const Load few{10, 10}, many{5000, 1000};
  const double step = endless_step(few), step_of_many = endless_step(many);
  const double last = last_step(few), last_of_many = last_step(many);
  std::printf("a step %.0f us, beside many jobs %.0f us; one that ends a job %.0f us, %.0f us\n", step * 1e6,
              step_of_many * 1e6, last * 1e6, last_of_many * 1e6);
  EXPECT_LT(step_of_many, 1.5 * step);
  EXPECT_LT(last_of_many, 1.5 * last);
}

}  // namespace
}  // namespace coppice
