#include "coordinator/jobs/train_arguments.h"

#include <gtest/gtest.h>

#include "common/io/json.h"
#include "tests/unit/coordinator/jobs/expect_error.h"

namespace coppice {
namespace {

TrainArguments read(const std::string& json) {
  return read_train_arguments(parse_json(json, "test"), "train");
}

Json golden() {
  return read_json_file(COPPICE_SOURCE_DIR "/tests/unit/coordinator/jobs/trainer_golden.json");
}

TEST(TrainArgumentsTest, EveryKeyOfTheTrainerIsAcceptedAtItsDefault) {
  const Json nothing = train_keys(read("{}"));
  const Json theirs = golden()["defaults"];
  for (const auto& [key, value] : theirs.items()) {
    Json block = Json::object();
    block[key] = value;
    Json keys;
    EXPECT_NO_THROW(keys = train_keys(read_train_arguments(block, "train"))) << block;
    if (key == "save_steps") keys["save_steps"] = nothing["save_steps"];  // 500 there, no rhythm here
    EXPECT_EQ(keys, nothing) << block;
  }
}

TEST(TrainArgumentsTest, DefaultsAreThoseOfTheTrainer) {
  const Json theirs = golden()["defaults"];
  size_t compared = 0;
  const Json ours = train_keys(read("{}"));
  for (const auto& [key, value] : ours.items()) {
    if (!theirs.contains(key) || theirs[key].is_null() || key == "save_steps" || key == "optim") continue;
    EXPECT_EQ(value, theirs[key]) << key;
    ++compared;
  }
  EXPECT_EQ(compared, 17u);
  EXPECT_EQ(theirs["optim"], "adamw_torch_fused");  // the same arithmetic as adamw_torch
}

TEST(TrainArgumentsTest, EveryKeyOfTheTrainerRefusesNonsenseOrIsKnownToChangeNothing) {
  // An object with a strange key is no value of any of them.
  const Json nonsense = {{"no such", "value"}};
  std::vector<std::string> accepted;
  const Json theirs = golden()["defaults"];
  for (const auto& [key, value] : theirs.items()) {
    Json block = Json::object();
    block[key] = nonsense;
    try {
      EXPECT_EQ(train_keys(read_train_arguments(block, "train")), train_keys(read("{}")));
      accepted.push_back(key);
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find("train." + key + " "), 0u) << error.what();
    }
  }
  EXPECT_EQ(accepted.size(), 39u) << Json(accepted);
}

TEST(TrainArgumentsTest, RefusesByNameWithWhatDoesTheWorkInstead) {
  const auto refused = [](const std::string& json, const std::string& message) {
    expect_error(ErrorCode::kUnsupported, message, [&] { read(json); });
  };
  refused(R"({"bf16": true})",
          "train.bf16 is true; only false is accepted: --dtype sets the numbers of a run");
  refused(R"({"output_dir": "out"})", "train.output_dir is \"out\"; the key is not supported: adapters");
  refused(R"({"report_to": "wandb"})", "only \"none\", [] or [\"none\"] is accepted");
  refused(R"({"save_strategy": "epoch"})",
          "train.save_strategy is \"epoch\"; \"steps\" or \"no\" is accepted");
  refused(R"({"data_seed": 7})", "train.data_seed is 7; only the seed itself, 42, is accepted");
  refused(R"({"optim_args": "momentum=0.9"})", "it is accepted with optim sgd only");
  refused(R"({"optim": "sgd", "optim_args": "nesterov=true"})", "holds \"nesterov=true\"");
  refused(R"({"gradient_checkpointing_kwargs": {"offload": true}})", "train.gradient_checkpointing_kwargs");
}

TEST(TrainArgumentsTest, RefusesWrongValues) {
  const auto refused = [](const std::string& json, const std::string& message) {
    expect_error(ErrorCode::kInvalid, message, [&] { read(json); });
  };
  refused(R"({"lerning_rate": 1})", "train.lerning_rate: unknown key; did you mean learning_rate?");
  refused(R"({"learning_rate": "2e-4"})", "train.learning_rate is \"2e-4\"");
  refused(R"({"learning_rate": -1})", "train.learning_rate is -1");
  refused(R"({"max_steps": 0})", "train.max_steps is 0; at least 1, or -1");
  refused(R"({"num_train_epochs": 0})", "train.num_train_epochs is 0");
  refused(R"({"per_device_train_batch_size": 0})", "train.per_device_train_batch_size is 0");
  refused(R"({"per_device_train_batch_size": 1.5})", "train.per_device_train_batch_size is 1.5");
  refused(R"({"adam_beta2": 1})", "train.adam_beta2 is 1");
  refused(R"({"lr_scheduler_type": "polynomial"})",
          "linear, cosine, constant or constant_with_warmup is accepted");
  refused(R"({"optim": "adafactor"})", "adamw_torch, adamw_torch_fused or sgd is accepted");
  refused(R"({"warmup_steps": 2.5})", "a whole number of steps, or a share of all steps below 1");
  refused(R"({"logging_steps": 0})", "train.logging_steps is 0");
  refused(R"({"warmup_steps": 0.1, "warmup_ratio": 0.2})", "two names of one thing");
  refused(R"({"eval_strategy": "no", "evaluation_strategy": "steps"})", "two names of one thing");
  refused(R"({"gradient_checkpointing": true, "activation_checkpointing": false})", "two names of one thing");
  refused(R"({"optim": "sgd", "optim_args": "momentum=fast"})", "momentum is \"fast\"");
  refused(R"({"optim": "sgd", "optim_args": "momentum"})", "NAME=VALUE is accepted");
  refused(R"([1])", "train is [1]; an object of keys is accepted");
}

TEST(TrainArgumentsTest, WarmupIsStepsOrAShare) {
  EXPECT_EQ(read(R"({"warmup_ratio": 0.1})").warmup_ratio, 0.1);
  EXPECT_EQ(read(R"({"warmup_steps": 0.1})").warmup_ratio, 0.1);
  EXPECT_EQ(read(R"({"warmup_steps": 0.1})").warmup_steps, 0);
  EXPECT_EQ(read(R"({"warmup_steps": 10})").warmup_steps, 10);
  EXPECT_EQ(read(R"({"warmup_steps": 1})").warmup_steps, 1);
  const TrainArguments both = read(R"({"warmup_steps": 10, "warmup_ratio": 0.1})");
  EXPECT_EQ(both.warmup_steps, 10);
  EXPECT_EQ(both.warmup_ratio, 0);
}

TEST(TrainArgumentsTest, OlderNamesMeanTheSame) {
  EXPECT_EQ(read(R"({"evaluation_strategy": "epoch"})").eval_strategy, EvalStrategy::kEpoch);
  EXPECT_TRUE(read(R"({"activation_checkpointing": true})").gradient_checkpointing);
  EXPECT_TRUE(
      read(R"({"gradient_checkpointing": true, "activation_checkpointing": true})").gradient_checkpointing);
}

TEST(TrainArgumentsTest, EvaluationStepsFallBackToLoggingSteps) {
  EXPECT_EQ(read(R"({"eval_strategy": "steps", "logging_steps": 25})").eval_steps, 25);
  EXPECT_EQ(read(R"({"eval_strategy": "steps", "eval_steps": 0.25})").eval_steps, 0.25);
  EXPECT_EQ(read(R"({"eval_strategy": "epoch"})").eval_steps, 0);
}

TEST(TrainArgumentsTest, SaveStepsHoldOnlyWithTheStrategy) {
  EXPECT_EQ(read(R"({"save_steps": 10})").save_steps, 10);
  EXPECT_EQ(read(R"({"save_steps": 10, "save_strategy": "no"})").save_steps, 0);
}

TEST(TrainArgumentsTest, CanonicalKeysReadBackToThemselves) {
  for (
      const char* json :
      {"{}",
       R"({"optim": "sgd", "optim_args": "momentum = 0.9, dampening=0", "max_steps": 7, "warmup_steps": 0.03})",
       R"({"eval_strategy": "steps", "lr_scheduler_type": "cosine", "warmup_steps": 12, "seed": 9007199254740993})"}) {
    const Json keys = train_keys(read(json));
    EXPECT_EQ(train_keys(read_train_arguments(keys, "train")), keys);
  }
  EXPECT_EQ(read(R"({"optim": "sgd", "optim_args": "momentum=0.9"})").momentum, 0.9);
}

}  // namespace
}  // namespace coppice
