#include "coordinator/api/submission.h"

#include <gtest/gtest.h>

#include "common/io/yaml.h"
#include "coordinator/jobs/job_file.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

JobFile example() {
  return parse_job_file(parse_yaml(R"(
backbone: ../models/tiny
defaults: {train: {num_train_epochs: 2, seed: 7}, method: {peft_type: LORA, r: 4}}
jobs:
  - name: tone
    method: {lora_alpha: 16, target_modules: [q_proj, v_proj]}
    data: {train: tone.jsonl, eval: tone-eval.jsonl, max_length: 512, template: "{instruction}: {input}"}
    train: {learning_rate: 2.0e-4, max_steps: 200, optim: sgd, optim_args: momentum=0.9, eval_strategy: steps, eval_steps: 0.25}
    priority: 3
  - name: second
    data: {train: /data/second.jsonl, eval_split: 0.1}
  - name: fourth
    init_adapter: adapters/old
    data: {train: fourth.jsonl, shuffle: false}
sweep: {of: second, over: {train.learning_rate: [1.0e-4, 3.0e-4]}}
)",
                                   "jobs.yaml"),
                        "jobs.yaml", "/runs/x");
}

TEST(SubmissionTest, ComesOutAsTheJobFileWentIn) {
  const JobFile sent = example();
  const JobFile got = read_submission(make_submission(sent));
  EXPECT_EQ(got.backbone, sent.backbone);
  ASSERT_EQ(got.jobs.size(), sent.jobs.size());
  for (size_t i = 0; i < got.jobs.size(); ++i) {
    EXPECT_EQ(got.jobs[i].name, sent.jobs[i].name);
    EXPECT_EQ(got.jobs[i].priority, sent.jobs[i].priority);
    EXPECT_EQ(got.jobs[i].method, sent.jobs[i].method);
    EXPECT_EQ(got.jobs[i].data.train, sent.jobs[i].data.train);
    EXPECT_EQ(got.jobs[i].keys.dump(), sent.jobs[i].keys.dump());
  }
}

TEST(SubmissionTest, RelativePathsAreRefused) {
  for (const char* place : {"/backbone", "/data/train", "/data/eval", "/init_adapter"}) {
    Submission submission = make_submission(example());
    if (std::string(place) == "/backbone") {
      submission.backbone = "models/tiny";
    } else {
      Json keys = Json::parse(submission.jobs[0]);
      keys[Json::json_pointer(place)] = "rows.jsonl";
      submission.jobs[0] = keys.dump();
    }
    const std::string message = message_of([&] { read_submission(submission); });
    EXPECT_NE(message.find("absolute path"), std::string::npos) << place << ": " << message;
  }
}

TEST(SubmissionTest, WhatIsNoJobIsRefused) {
  for (const char* text : {"", "{", "null", "3", "[]", "{}", "{\"name\":3}", "{\"name\":\"../x\"}", "\xff",
                           "{\"name\":\"a\",\"data\":3}", "{\"name\":\"a\",\"unknown\":1}"}) {
    const Error error = error_of([&] { read_submission({"/b", {text}}); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid) << text;
  }
  EXPECT_EQ(error_of([] { read_submission({"/b", {}}); }).code(), ErrorCode::kInvalid);
  EXPECT_EQ(error_of([] { read_submission({"", {"{}"}}); }).code(), ErrorCode::kInvalid);
}

TEST(SubmissionTest, PathsThatAreNoUtf8AreRefusedByTheClient) {
  JobFile file = example();
  file.jobs[0].keys["data"]["train"] = "/data/\xff.jsonl";
  EXPECT_NE(message_of([&] { make_submission(file); }).find("tone"), std::string::npos);
}

}  // namespace
}  // namespace coppice
