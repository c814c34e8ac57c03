#pragma once
// An engine with one stage in this process, on a tiny backbone and a store in memory whose writes can be held
// up, with room for a given number of small jobs at a time, all on one file.

#include <gtest/gtest.h>
#include <time.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "coordinator/engine.h"
#include "coordinator/jobs/job_file.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/jobs/settled.h"
#include "tests/unit/worker/tiny_backbone.h"

namespace coppice {

inline double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// A disk that takes its time: while it is held, a write waits.
class HeldStore : public KvStore {
 public:
  void hold(bool held) {
    {
      std::lock_guard lock(mutex_);
      held_ = held;
    }
    changed_.notify_all();
  }
  std::optional<std::string> get(std::string_view key) const override { return store_->get(key); }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    store_->scan(prefix, visit);
  }
  void write(const Batch& batch, bool sync) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !held_; });
    store_->write(batch, sync);
  }

 private:
  std::unique_ptr<KvStore> store_ = make_memory_store();
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;  // guarded by mutex_
};

class EngineRig {
 public:
  // Room for so many jobs at a time.
  explicit EngineRig(int64_t running,
                     const std::string& rows = "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 6]}\n") {
    write_data(rows);
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
    model.limit_bytes = model.total_bytes(std::vector<JobMemory>(size_t(running), example->memory));
    limit_bytes_ = model.limit_bytes;
    options.hosts = {model};
    engine_ = std::make_unique<Engine>(cluster_, *device_.backend, backbone_, store_, std::move(options));
    engine_->on_event([this](const JobEvent& event) {
      steps_ += event.kind == JobEvent::Kind::kStep;
      if (event.kind == JobEvent::Kind::kState) told_[event.run->name()].push_back(event.run->record.state);
    });
  }

  ~EngineRig() { store_.hold(false); }

  Engine& engine() { return *engine_; }
  HeldStore& store() { return store_; }                 // to be read while the engine writes nothing
  int64_t limit_bytes() const { return limit_bytes_; }  // of memory
  void write_data(const std::string& rows) { write_settled(folder_.file("rows.jsonl"), rows); }
  void remove_data() { std::filesystem::remove(folder_.file("rows.jsonl")); }
  void submit(const std::string& name, int64_t steps, int64_t rank = 2) {
    engine_->submit(prepare(name, steps, rank), std::nullopt);
  }
  // Until what is asked for is so, at most ten seconds.
  template <typename Condition>
  bool until(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      turn();
    }
    return true;
  }

  // The states that events have told of a job, in order.
  const std::vector<JobState>& told(const std::string& name) { return told_[name]; }

  void add_ended(int count) {
    for (int i = 0; i < count; ++i) {
      StoredJob job;
      job.record.name = "ended" + std::to_string(i);
      job.record.state = JobState::kDone;
      engine_->keep(std::move(job));
    }
  }
  void submit_many(int count, int64_t steps, const std::string& name) {
    for (int i = 0; i < count; ++i) submit(name + std::to_string(i), steps);
  }
  // Processor time of so many steps of any jobs, each.
  double seconds_per_step(int64_t steps) {
    const int64_t until = steps_ + steps;
    const double began = processor_seconds();
    while (steps_ < until) turn();
    return (processor_seconds() - began) / double(steps);
  }

 private:
  void turn() {
    const bool worked = engine_->poll();
    if (!cluster_.poll() && !worked) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }

  std::unique_ptr<PreparedJob> prepare(const std::string& name, int64_t steps, int64_t rank = 2) const {
    const Json job = {{"name", name},
                      {"method", {{"peft_type", "LORA"}, {"r", rank}, {"target_modules", "all-linear"}}},
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
  HeldStore store_;
  std::unique_ptr<Engine> engine_;
  int64_t steps_ = 0, limit_bytes_ = 0;
  std::map<std::string, std::vector<JobState>> told_;
};

}  // namespace coppice
