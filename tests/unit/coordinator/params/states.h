#pragma once
// Commits for tests whose every value is a function of job, version, tensor, part and place, so that a state
// that was read can be told to be whole, and of one version.

#include <gtest/gtest.h>

#include <string>

#include "common/base/error.h"
#include "coordinator/params/checkpoint.h"

namespace coppice {

inline float state_value(size_t job_length, int64_t version, size_t tensor, size_t part, size_t place) {
  return float((job_length * 31 + size_t(version) * 7919 + tensor * 104729 + part * 1299709 + place * 17) %
               1000003);
}

inline Tensor state_tensor(const std::string& job, int64_t version, size_t tensor, size_t part,
                           const Shape& shape) {
  Tensor made(shape);
  for (size_t i = 0; i < made.values.size(); ++i) {
    made.values[i] = state_value(job.size(), version, tensor, part, i);
  }
  return made;
}

// AdamW's moments, or moments as given.
inline ShardState make_state(const std::string& job, int64_t version, const std::vector<Shape>& shapes,
                             size_t moments = 2) {
  ShardState state;
  state.version = version;
  for (size_t t = 0; t < shapes.size(); ++t) {
    state.tensors.push_back({int64_t(t), "layers." + std::to_string(t) + ".lora_A", shapes[t]});
    state.parameters.push_back(state_tensor(job, version, t, 0, shapes[t]));
    auto& parts = state.moments.emplace_back();
    for (size_t m = 1; m <= moments; ++m) parts.push_back(state_tensor(job, version, t, m, shapes[t]));
  }
  return state;
}

// As the engine makes them: one line of metrics a version.
inline Commit make_commit(const std::string& job, int64_t version, const std::vector<Shape>& shapes) {
  Commit commit;
  commit.record.name = job;
  commit.record.ordinal = int64_t(job.size());
  commit.record.keys = Json{{"train", {{"learning_rate", 1e-4}}}};
  commit.record.method = Json{{"peft_type", "LORA"}};
  commit.record.state = JobState::kRunning;
  commit.record.total_steps = 1000;
  commit.head.version = version;
  commit.head.tokens = version * 100;
  commit.head.loss = 1.0 / double(version + 1);
  commit.state = make_state(job, version, shapes);
  if (version > 0) {
    commit.metrics.push_back(
        {version,
         fmt::format("{{\"job\":\"{}\",\"step\":{},\"loss\":2.5,\"grad_norm\":1.25,\"learning_rate\":0.0001,"
                     "\"tokens\":{},\"time\":12.5}}",
                     job, version, version * 100)});
  }
  return commit;
}

// What a reader finds of the job is one whole committed version; which.
inline int64_t expect_whole(KvReader& store, const std::string& job, const std::vector<Shape>& shapes) {
  const CheckpointReader reader(store);
  const ShardState state = reader.state(job);
  const ShardState wanted = make_state(job, state.version, shapes);
  EXPECT_EQ(state.tensors.size(), wanted.tensors.size());
  for (size_t t = 0; t < wanted.tensors.size() && t < state.tensors.size(); ++t) {
    EXPECT_EQ(state.tensors[t].name, wanted.tensors[t].name);
    EXPECT_EQ(state.parameters[t].shape, shapes[t]);
    EXPECT_TRUE(state.parameters[t].values == wanted.parameters[t].values)
        << job << " " << state.version << " " << t;
    EXPECT_EQ(state.moments[t].size(), wanted.moments[t].size());
    for (size_t m = 0; m < wanted.moments[t].size(); ++m) {
      EXPECT_TRUE(state.moments[t][m].values == wanted.moments[t][m].values)
          << job << " " << state.version << " " << t;
    }
  }
  return state.version;
}

}  // namespace coppice
