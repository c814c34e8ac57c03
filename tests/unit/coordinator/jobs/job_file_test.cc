#include "coordinator/jobs/job_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "common/io/files.h"
#include "common/io/yaml.h"
#include "tests/unit/coordinator/jobs/expect_error.h"

namespace coppice {
namespace {

JobFile parse(const std::string& yaml) {
  return parse_job_file(parse_yaml(yaml, "jobs.yaml"), "jobs.yaml", "/runs/x");
}

// A file of one job, with lines added to it.
JobFile parse_one(const std::string& lines) {
  return parse(
      "backbone: b\njobs:\n  - name: tone\n    method: {peft_type: LORA, r: 8}\n    data: {train: "
      "t.jsonl}\n" +
      lines);
}

void refused(const std::string& yaml, const std::string& message, ErrorCode code = ErrorCode::kInvalid) {
  expect_error(code, message, [&] { parse(yaml); });
}

constexpr const char* kIssue = R"(
backbone: ../models/tiny
defaults: {train: {max_steps: 100, seed: 7}, data: {max_length: 256}, method: {peft_type: LORA, r: 4, lora_alpha: 8}}
jobs:
  - name: tone
    method: {peft_type: LORA, r: 8, lora_alpha: 16, target_modules: [q_proj, v_proj]}
    data: {train: tone.jsonl, eval: tone-eval.jsonl, max_length: 512, shuffle: true, loss_on: completion}
    train: {learning_rate: 2.0e-4, max_steps: 200, per_device_train_batch_size: 4, gradient_accumulation_steps: 2, lr_scheduler_type: linear, warmup_ratio: 0.03}
    priority: 3
  - name: second
    data: {train: /data/second.jsonl, eval_split: 0.1}
  - name: third
    method: {peft_type: IA3}
    data: {train: third.jsonl}
  - name: fourth
    init_adapter: adapters/old
    data: {train: fourth.jsonl}
sweep: {of: second, over: {train.learning_rate: [1.0e-4, 3.0e-4], method.r: [4, 16]}}
)";

TEST(JobFileTest, ReadsDefaultsJobsAndSweep) {
  const JobFile file = parse(kIssue);
  EXPECT_EQ(file.backbone, "/runs/models/tiny");
  ASSERT_EQ(file.jobs.size(), 7u);
  const JobSpec& tone = file.jobs[0];
  EXPECT_EQ(tone.name, "tone");
  EXPECT_EQ(tone.priority, 3);
  EXPECT_EQ(tone.data.train, "/runs/x/tone.jsonl");
  EXPECT_EQ(tone.data.eval, "/runs/x/tone-eval.jsonl");
  EXPECT_EQ(tone.data.max_length, 512);
  EXPECT_EQ(tone.train.learning_rate, 2e-4);
  EXPECT_EQ(tone.train.max_steps, 200);
  EXPECT_EQ(tone.train.seed, 7u);
  EXPECT_EQ(tone.method["r"], 8);
  EXPECT_EQ(tone.method["target_modules"], Json({"q_proj", "v_proj"}));
  EXPECT_EQ(file.jobs[4].name, "second@train.learning_rate=3e-4,method.r=16");
  EXPECT_EQ(file.jobs[4].method, Json({{"peft_type", "LORA"}, {"r", 16}, {"lora_alpha", 8}}));
  EXPECT_EQ(file.jobs[4].train.learning_rate, 3e-4);
  EXPECT_EQ(file.jobs[4].data.train, "/data/second.jsonl");
  EXPECT_EQ(file.jobs[4].data.eval_split, 0.1);
}

TEST(JobFileTest, AJobOfAnotherKindInheritsNoMethodKeys) {
  const JobFile file = parse(kIssue);
  EXPECT_EQ(file.jobs[5].method, Json({{"peft_type", "IA3"}}));
  EXPECT_EQ(file.jobs[5].train.max_steps, 100);
}

TEST(JobFileTest, AJobFromAnAdapterInheritsNoMethod) {
  const JobFile file = parse(kIssue);
  EXPECT_EQ(file.jobs[6].method, Json::object());
  EXPECT_EQ(file.jobs[6].init_adapter, "/runs/x/adapters/old");
}

TEST(JobFileTest, AJobsOwnEvaluationDataReplacesTheDefaults) {
  const JobFile file = parse(
      "backbone: b\ndefaults: {data: {eval_split: 0.1}, method: {peft_type: LORA}}\njobs:\n"
      "  - {name: a, data: {train: a, eval: e}}\n  - {name: b, data: {train: b}}\n");
  EXPECT_EQ(file.jobs[0].data.eval_split, 0);
  EXPECT_EQ(file.jobs[1].data.eval_split, 0.1);
}

TEST(JobFileTest, NullTakesADefaultAway) {
  const JobFile file = parse(
      "backbone: b\ndefaults: {train: {max_steps: 9}, method: {peft_type: LORA, r: 4}}\njobs:\n"
      "  - {name: a, data: {train: a}, train: {max_steps: null}, method: {r: null}}\n");
  EXPECT_EQ(file.jobs[0].train.max_steps, -1);
  EXPECT_EQ(file.jobs[0].method, Json({{"peft_type", "LORA"}}));
}

TEST(JobFileTest, RefusesWhatIsWrongInTheFile) {
  refused("- 1", "jobs.yaml: the document is [1]");
  refused("jobs: []", "jobs.yaml: backbone is missing");
  refused("backbone: 3", "jobs.yaml: backbone is 3; a string is accepted");
  refused("backbone: ''", "jobs.yaml: backbone is \"\"; a path is accepted");
  refused("backbone: b", "jobs.yaml: jobs is missing; a list of at least one job is accepted");
  refused("backbone: b\njobs: []", "jobs.yaml: jobs is []");
  refused("backbone: b\njbos: []", "jobs.yaml: jbos: unknown key; did you mean jobs?");
  refused("backbone: b\njobs: [3]", "jobs.yaml: jobs[0] is 3");
  refused("backbone: b\njobs: [{data: {}}]", "jobs.yaml: jobs[0].name is missing");
  refused("backbone: b\ndefaults: {tarin: {}}",
          "jobs.yaml: defaults.tarin: unknown key; did you mean train?");
  refused("backbone: b\ndefaults: {train: {lr: 1}}\njobs: []", "jobs.yaml: defaults.train.lr: unknown key");
  refused("backbone: b\ndefaults: {data: 3}", "jobs.yaml: defaults.data is 3; an object of keys is accepted");
}

TEST(JobFileTest, RefusesWhatIsWrongInAJob) {
  const auto one = [](const std::string& lines, const std::string& message,
                      ErrorCode code = ErrorCode::kInvalid) {
    expect_error(code, message, [&] { parse_one(lines); });
  };
  one("    prioriti: 1\n", "jobs.yaml: jobs.tone.prioriti: unknown key; did you mean priority?");
  one("    priority: 0\n", "jobs.yaml: jobs.tone.priority is 0");
  one("    train: {lerning_rate: 1}\n",
      "jobs.yaml: jobs.tone.train.lerning_rate: unknown key; did you mean learning_rate?");
  one("    train: 3\n", "jobs.yaml: jobs.tone.train is 3; an object of keys is accepted");
  one("    train: {fp16: true}\n", "jobs.yaml: jobs.tone.train.fp16 is true", ErrorCode::kUnsupported);
  one("    train: {eval_strategy: steps}\n", "jobs.yaml: jobs.tone.train.eval_strategy asks for evaluation");
  one("    train: {eval_on_start: true}\n", "jobs.yaml: jobs.tone.train.eval_on_start asks for evaluation");
  one("  - name: tone\n", "jobs.yaml: jobs[1].name is tone, as an earlier job's");
  one("  - name: b\n    data: {train: x}\n", "jobs.yaml: jobs.b.method.peft_type is missing");
  one("  - name: b\n    method: {peft_type: 3}\n    data: {train: x}\n",
      "jobs.b.method.peft_type is 3; a string");
  one("  - name: b\n    method: {peft_type: LORA}\n", "jobs.yaml: jobs.b.data.train is missing");
}

TEST(JobFileTest, RefusesWhatIsWrongInData) {
  const auto data = [](const std::string& keys, const std::string& message,
                       ErrorCode code = ErrorCode::kInvalid) {
    refused("backbone: b\njobs: [{name: a, method: {peft_type: LORA}, data: {train: t, " + keys + "}}]",
            message, code);
  };
  data("evall: x", "jobs.yaml: jobs.a.data.evall: unknown key; did you mean eval?");
  data("eval: x, eval_split: 0.1", "jobs.a.data.eval and jobs.yaml: jobs.a.data.eval_split are both given");
  data("eval_split: 1.5", "jobs.a.data.eval_split is 1.5; a share below 1 or a whole number of rows");
  data("max_length: 0", "jobs.a.data.max_length is 0");
  data("on_long: cut", "jobs.a.data.on_long is \"cut\"; error, truncate or drop is accepted");
  data("loss_on: prompt", "jobs.a.data.loss_on is \"prompt\"; completion or all is accepted");
  data("shuffle: maybe", "jobs.a.data.shuffle is \"maybe\"");
  data("packing: true", "jobs.a.data.packing is true; only false is supported", ErrorCode::kUnsupported);
  data("template: 'Q: {question}'",
       "template holds the placeholder \"question\"; {instruction} and {input} are accepted");
  data("template: '{instruction} {output}'", "template holds {output}; a template is the prompt alone");
  data("template: 'Q: {instruction'", "template has a lone { at byte 3");
  data("template: 'Q: }{instruction}'", "template has a lone } at byte 3");
  data("template: 'Q: {input}'", "template has no {instruction}");
}

TEST(JobFileTest, NamesAreFolders) {
  const auto named = [](const std::string& name) {
    return parse("backbone: b\njobs: [{name: '" + name + "', method: {peft_type: LORA}, data: {train: t}}]");
  };
  EXPECT_EQ(named("a.B_c@d=1,e+f-9").jobs[0].name, "a.B_c@d=1,e+f-9");
  EXPECT_NO_THROW(named(std::string(200, 'x')));
  for (const char* bad : {"", ".", "..", "-a", "a/b", "a b", "ä", "a\\b"}) {
    expect_error(ErrorCode::kInvalid, "jobs.yaml: jobs[0].name is ", [&] { named(bad); });
  }
  expect_error(ErrorCode::kInvalid, "201 bytes; at most 200 are accepted",
               [&] { named(std::string(201, 'x')); });
}

TEST(JobFileTest, RefusesASweepThatMakesAJobTwice) {
  refused(
      "backbone: b\ndefaults: {method: {peft_type: LORA}}\njobs:\n  - {name: a, data: {train: t}}\n"
      "  - {name: a@train.seed=1, data: {train: t}}\nsweep: {of: a, over: {train.seed: [1]}}\n",
      "jobs.yaml: sweep makes job a@train.seed=1 twice");
  refused(
      "backbone: b\ndefaults: {method: {peft_type: LORA}}\njobs:\n  - {name: a, data: {train: t}}\n"
      "sweep: {of: a, over: {train.optim_args: [" +
          std::string(200, 'x') + "]}}\n",
      "at most 200 are accepted");
}

TEST(JobFileTest, CanonicalKeysReadBackToTheSameJob) {
  const JobFile file = parse(kIssue);
  for (const JobSpec& job : file.jobs) {
    const Json again = {{"backbone", file.backbone}, {"jobs", {job.keys}}};
    EXPECT_EQ(parse_job_file(again, "again", "/elsewhere").jobs[0].keys, job.keys);
  }
}

class JobFileOnDiskTest : public testing::Test {
 protected:
  JobFileOnDiskTest() {
    folder_ = testing::TempDir() + "jobs_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
    path_ = folder_ + "/jobs.yaml";
    write_file_atomically(path_,
                          "backbone: b\ndefaults: {train: {max_steps: 5}, method: {peft_type: LORA}}\njobs:\n"
                          "  - {name: a, data: {train: t}}\n  - {name: a.b=c, data: {train: t}}\n");
  }
  ~JobFileOnDiskTest() override { std::filesystem::remove_all(folder_); }

  std::string folder_, path_;
};

TEST_F(JobFileOnDiskTest, PathsAreRelativeToTheFile) {
  const JobFile file = read_job_file(path_);
  EXPECT_EQ(file.path, path_);
  EXPECT_EQ(file.backbone, folder_ + "/b");
  EXPECT_EQ(file.jobs[0].data.train, folder_ + "/t");
  expect_error(ErrorCode::kNotFound, folder_ + "/none.yaml", [&] { read_job_file(folder_ + "/none.yaml"); });
}

TEST_F(JobFileOnDiskTest, OverridesCountAsWrittenInTheFile) {
  const JobFile file = read_job_file(
      path_, {"defaults.train.max_steps=20", "jobs.a.train.learning_rate=1e-4",
              "jobs.a.b=c.train.optim_args=null", "jobs.a.b=c.train.seed=3", "backbone=/models/m",
              "jobs.a.method.target_modules=[q_proj]", "sweep={of: a, over: {priority: [1, 2]}}"});
  EXPECT_EQ(file.backbone, "/models/m");
  ASSERT_EQ(file.jobs.size(), 3u);
  EXPECT_EQ(file.jobs[0].name, "a@priority=1");
  EXPECT_EQ(file.jobs[0].train.max_steps, 20);
  EXPECT_EQ(file.jobs[0].train.learning_rate, 1e-4);
  EXPECT_EQ(file.jobs[0].method["target_modules"], Json::array({"q_proj"}));
  EXPECT_EQ(file.jobs[2].train.seed, 3u);
}

TEST_F(JobFileOnDiskTest, RefusesOverridesThatSetNothing) {
  const auto refused_override = [&](const std::string& text, const std::string& message, ErrorCode code) {
    expect_error(code, message, [&] { read_job_file(path_, {text}); });
  };
  refused_override("defaults.train.max_steps", "KEY=VALUE is accepted", ErrorCode::kInvalid);
  refused_override("=3", "KEY=VALUE is accepted", ErrorCode::kInvalid);
  refused_override("train.max_steps=3", "backbone, sweep, defaults.KEY or jobs.NAME.KEY can be set",
                   ErrorCode::kInvalid);
  refused_override("jobs.c.train.max_steps=3", "\"jobs.c.train.max_steps=3\": there is no such job",
                   ErrorCode::kNotFound);
  refused_override("jobs.a.train..x=3", "there is no such key to set", ErrorCode::kInvalid);
  refused_override("jobs.a.name.x=3", "there is no such key to set", ErrorCode::kInvalid);
  refused_override("defaults.train.max_step=3",
                   "defaults.train.max_step: unknown key; did you mean max_steps?", ErrorCode::kInvalid);
  refused_override("backbone=[", "the value of \"backbone=[\":1:1", ErrorCode::kInvalid);
}

Json keys_with(const std::string& train, const std::string& more = "") {
  return parse("backbone: b\njobs: [{name: a, method: {peft_type: LORA, r: 4}, data: {train: t}, train: {" +
               train + "}" + more + "}]")
      .jobs[0]
      .keys;
}

TEST(ChangedKeyTest, NamesTheFirstThatDiffers) {
  const Json before = keys_with("max_steps: 10");
  EXPECT_EQ(changed_key(before, before), "");
  EXPECT_EQ(changed_key(before, keys_with("max_steps: 10, seed: 42, optim: adamw_torch_fused")), "");
  EXPECT_EQ(changed_key(before, keys_with("max_steps: 10, learning_rate: 1")), "train.learning_rate");
  EXPECT_EQ(changed_key(before, keys_with("max_steps: 10", ", init_adapter: x")), "init_adapter");
  Json other = before;
  other["method"]["r"] = 8;
  EXPECT_EQ(changed_key(before, other), "method.r");
  other = before;
  other["method"]["lora_alpha"] = 8;
  EXPECT_EQ(changed_key(before, other), "method.lora_alpha");
  EXPECT_EQ(changed_key(other, before), "method.lora_alpha");
  other = before;
  other["data"]["eval"] = "/eval.jsonl";
  EXPECT_EQ(changed_key(before, other), "data.eval");
}

TEST(ChangedKeyTest, StepsAndEpochsMayGrow) {
  EXPECT_EQ(changed_key(keys_with("max_steps: 10"), keys_with("max_steps: 11")), "");
  EXPECT_EQ(changed_key(keys_with("max_steps: 10"), keys_with("max_steps: 9")), "train.max_steps");
  EXPECT_EQ(changed_key(keys_with("max_steps: 10"), keys_with("")), "train.max_steps");
  EXPECT_EQ(changed_key(keys_with(""), keys_with("max_steps: 10")), "train.max_steps");
  EXPECT_EQ(changed_key(keys_with("num_train_epochs: 1"), keys_with("num_train_epochs: 1.5")), "");
  EXPECT_EQ(changed_key(keys_with("num_train_epochs: 2"), keys_with("num_train_epochs: 1")),
            "train.num_train_epochs");
}

TEST(ChangedKeyTest, WhatChangesNoBitsMayChange) {
  EXPECT_EQ(
      changed_key(keys_with(""), keys_with("logging_steps: 1, save_steps: 5, gradient_checkpointing: true",
                                           ", priority: 4")),
      "");
  Json moved = keys_with("");
  moved["data"]["train"] = "/elsewhere";
  EXPECT_EQ(changed_key(keys_with(""), moved), "");
}

}  // namespace
}  // namespace coppice
