// What a server costs that has been up for long: beside thousands of jobs that have ended and a thousand that
// wait, a step takes the processor about as long as beside ten.

#include <gtest/gtest.h>
#include <time.h>

#include <chrono>
#include <memory>
#include <thread>

#include "coordinator/engine.h"
#include "coordinator/jobs/job_file.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/worker/tiny_backbone.h"

namespace coppice {
namespace {

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

class LongServer {
 public:
  // Room for so many jobs at a time.
  explicit LongServer(int64_t running) {
    std::ofstream(folder_.file("rows.jsonl")) << "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 6]}\n";
    std::filesystem::create_directories(folder_.file("adapters"));
    backbone_ = read_backbone(tiny_.folder());
    const std::vector<LayerRange> stages = {{0, backbone_.config.layers}};
    RankSettings settings{folder_.path(), stages, {"cpu", "float32", 1, nullptr}, false, 0};
    cluster_.configure(settings, backbone_, device_.backend->instruction_set(), [](const std::string&) {});
    EngineOptions options;
    options.output = folder_.path();
    options.stages = stages;
    options.dtype = "float32";
    options.instruction_set = device_.backend->instruction_set();
    MemoryModel model;
    model.config = backbone_.config;
    model.pack_rows = options.pack_rows;
    model.stages = stages;
    const auto example = prepare("example", 1);
    model.limit_bytes = model.total_bytes(std::vector<JobMemory>(size_t(running), memory_of(*example)));
    options.hosts = {model};
    engine_ = std::make_unique<Engine>(cluster_, *device_.backend, backbone_, *store_, std::move(options));
    engine_->on_event([this](const JobEvent& event) { steps_ += event.kind == JobEvent::Kind::kStep; });
  }

  void add_ended(int count) {
    for (int i = 0; i < count; ++i) {
      StoredJob job;
      job.record.name = "ended" + std::to_string(i);
      job.record.state = JobState::kDone;
      engine_->keep(std::move(job));
    }
  }
  void submit(int count, int64_t steps, const std::string& name) {
    for (int i = 0; i < count; ++i) engine_->submit(prepare(name + std::to_string(i), steps), std::nullopt);
  }
  // Processor time of so many steps of any jobs, each.
  double seconds_per_step(int64_t steps) {
    const int64_t until = steps_ + steps;
    const double began = processor_seconds();
    while (steps_ < until) {
      const bool worked = engine_->poll();
      if (!cluster_.poll() && !worked) std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return (processor_seconds() - began) / double(steps);
  }

 private:
  std::unique_ptr<PreparedJob> prepare(const std::string& name, int64_t steps) const {
    const Json job = {{"name", name},
                      {"method", {{"peft_type", "LORA"}, {"r", 2}, {"target_modules", "all-linear"}}},
                      {"data", {{"train", folder_.file("rows.jsonl")}}},
                      {"train", {{"max_steps", steps}, {"per_device_train_batch_size", 1}}}};
    const Json file = {{"backbone", tiny_.folder()}, {"jobs", {job}}};
    return prepare_job(parse_job_file(file, "test", "/").jobs.at(0), backbone_);
  }

  TinyBackbone tiny_;
  TestFolder folder_;
  Device device_{{"cpu", "float32", 1, nullptr}};
  Cluster cluster_{device_, {}};
  Backbone backbone_;
  std::unique_ptr<KvStore> store_ = make_memory_store();
  std::unique_ptr<Engine> engine_;
  int64_t steps_ = 0;
};

struct Load {
  int ended = 0, queued = 0;
};

// Of jobs that run on and on, while the others wait.
double endless_step(const Load& load) {
  LongServer server(4);
  server.add_ended(load.ended);
  server.submit(4, 1'000'000, "endless");
  server.submit(load.queued, 1, "queued");
  server.seconds_per_step(50);
  return server.seconds_per_step(200);
}

// Of jobs of one step, so that each step ends one job and lets the next in.
double last_step(const Load& load) {
  LongServer server(4);
  server.add_ended(load.ended);
  server.submit(load.queued + 100, 1, "short");
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
