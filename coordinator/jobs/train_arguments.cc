#include "coordinator/jobs/train_arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "common/base/error.h"
#include "common/io/keys.h"
#include "coordinator/jobs/trainer_keys.h"

namespace coppice {
namespace {

// Far beyond use, and small enough that products of two stay exact.
constexpr double kMaxCount = 1e9;

// A key and the name that another version of transformers has for it: at most one of them, or both alike.
std::string_view one_of(Keys& keys, std::string_view key, std::string_view alias) {
  const Json* value = keys.value(key);
  const Json* other = keys.value(alias);
  if (value && other && *value != *other) {
    throw invalid("{} is {} and {} is {}: two names of one thing; one is accepted", keys.path(key),
                  shown(*value), keys.path(alias), shown(*other));
  }
  return other && !value ? alias : key;
}

// A number of steps, or a share of all steps in (0, 1), as transformers reads its *_steps.
double steps_or_share(Keys& keys, std::string_view key, double fallback, bool zero) {
  const double value =
      keys.number(key, fallback, {.minimum = 0, .maximum = kMaxCount, .open_minimum = !zero});
  if (value > 1 && value != std::floor(value)) {
    throw invalid("{} is {}; a whole number of steps, or a share of all steps below 1 is accepted",
                  keys.path(key), value);
  }
  return value;
}

void read_duration(Keys& keys, TrainArguments& train) {
  train.num_train_epochs = keys.number("num_train_epochs", train.num_train_epochs,
                                       {.minimum = 0, .maximum = kMaxCount, .open_minimum = true});
  train.max_steps = keys.integer("max_steps", train.max_steps, {.minimum = -1, .maximum = kMaxCount});
  if (train.max_steps == 0) {
    throw invalid("{} is 0; at least 1, or -1 for num_train_epochs is accepted", keys.path("max_steps"));
  }
  if (train.max_steps < 0) train.max_steps = -1;
  const Range count = {.minimum = 1, .maximum = kMaxCount};
  train.per_device_train_batch_size =
      keys.integer("per_device_train_batch_size", train.per_device_train_batch_size, count);
  train.per_device_eval_batch_size =
      keys.integer("per_device_eval_batch_size", train.per_device_eval_batch_size, count);
  train.gradient_accumulation_steps =
      keys.integer("gradient_accumulation_steps", train.gradient_accumulation_steps, count);
  train.max_tokens_per_micro_batch =
      keys.integer("max_tokens_per_micro_batch", 0, {.minimum = 0, .maximum = kMaxCount});
}

// optim_args: "momentum=0.9, nesterov=false", for sgd.
void read_optim_args(Keys& keys, TrainArguments& train) {
  std::string text = keys.text("optim_args", "");
  std::erase(text, ' ');
  if (text.empty()) return;
  const std::string path = keys.path("optim_args");
  if (train.optim != Optimizer::kSgd) {
    throw unsupported("{} is {}; it is accepted with optim sgd only", path, shown(std::string_view(text)));
  }
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string_view part = std::string_view(text).substr(at, end - at);
    at = end + 1;
    const size_t equals = part.find('=');
    if (equals == std::string_view::npos) {
      throw invalid("{} holds {}; NAME=VALUE is accepted", path, shown(part));
    }
    const std::string_view name = part.substr(0, equals), value = part.substr(equals + 1);
    double number = 0;
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), number);
    const bool is_number = parsed.ec == std::errc() && parsed.ptr == value.data() + value.size();
    if (name == "momentum" && is_number && number >= 0 && std::isfinite(number)) {
      train.momentum = number;
    } else if (name == "momentum") {
      throw invalid("{}: momentum is {}; a number of at least 0 is accepted", path, shown(value));
    } else if (name == "dampening" && is_number && number == 0) {
    } else if (name == "nesterov" &&
               (value == "false" || value == "False" || value == "0" || value == "no")) {
    } else {
      throw unsupported("{} holds {}; momentum=VALUE is accepted, dampening=0 and nesterov=false", path,
                        shown(part));
    }
  }
}

void read_optimizer(Keys& keys, TrainArguments& train) {
  train.learning_rate = keys.number("learning_rate", train.learning_rate, {.minimum = 0});
  const std::string optim = keys.choice("optim", "adamw_torch", {"adamw_torch", "adamw_torch_fused", "sgd"});
  train.optim = optim == "sgd" ? Optimizer::kSgd : Optimizer::kAdamW;
  read_optim_args(keys, train);
  for (const auto& [key, value] :
       {std::pair{"adam_beta1", &train.adam_beta1}, {"adam_beta2", &train.adam_beta2}}) {
    *value = keys.number(key, *value, {.minimum = 0, .maximum = 1});
    if (*value == 1) throw invalid("{} is 1; a number of at least 0 and below 1 is accepted", keys.path(key));
  }
  train.adam_epsilon = keys.number("adam_epsilon", train.adam_epsilon, {.minimum = 0});
  train.weight_decay = keys.number("weight_decay", train.weight_decay, {.minimum = 0});
  train.max_grad_norm = keys.number("max_grad_norm", train.max_grad_norm, {.minimum = 0});
}

void read_schedule(Keys& keys, TrainArguments& train) {
  const std::string type =
      keys.choice("lr_scheduler_type", "linear", {"linear", "cosine", "constant", "constant_with_warmup"});
  train.lr_scheduler_type = type == "linear"     ? LrSchedule::kLinear
                            : type == "cosine"   ? LrSchedule::kCosine
                            : type == "constant" ? LrSchedule::kConstant
                                                 : LrSchedule::kConstantWithWarmup;
  train.warmup_ratio = keys.number("warmup_ratio", 0, {.minimum = 0, .maximum = 1});
  // Version 4 has warmup_ratio, and steps that override it; version 5 has warmup_steps alone, a share when
  // below 1.
  const double steps = steps_or_share(keys, "warmup_steps", 0, true);
  if (steps >= 1) {
    train.warmup_steps = int64_t(steps);
    train.warmup_ratio = 0;
  } else if (steps > 0) {
    if (train.warmup_ratio > 0 && train.warmup_ratio != steps) {
      throw invalid("{} is {} and {} is {}: two names of one thing; one is accepted",
                    keys.path("warmup_steps"), steps, keys.path("warmup_ratio"), train.warmup_ratio);
    }
    train.warmup_ratio = steps;
  }
}

void read_rhythms(Keys& keys, TrainArguments& train) {
  const std::string strategy =
      keys.choice(one_of(keys, "eval_strategy", "evaluation_strategy"), "no", {"no", "steps", "epoch"});
  train.eval_strategy = strategy == "no"      ? EvalStrategy::kNo
                        : strategy == "steps" ? EvalStrategy::kSteps
                                              : EvalStrategy::kEpoch;
  train.logging_steps = steps_or_share(keys, "logging_steps", train.logging_steps, false);
  train.eval_steps = steps_or_share(keys, "eval_steps", 0, true);
  if (train.eval_strategy == EvalStrategy::kSteps && train.eval_steps == 0)
    train.eval_steps = train.logging_steps;
  train.eval_on_start = keys.boolean("eval_on_start", train.eval_on_start);
  train.eval_at_end = keys.boolean("eval_at_end", train.eval_at_end);
  train.save_steps = keys.integer("save_steps", 0, {.minimum = 0, .maximum = kMaxCount});
  const Json* save = keys.value("save_strategy");
  if (save && *save != Json("steps") && *save != Json("no")) {
    throw unsupported("{} is {}; \"steps\" or \"no\" is accepted: commits run beside the steps in any case",
                      keys.path("save_strategy"), shown(*save));
  }
  if (save && *save == Json("no")) train.save_steps = 0;
}

void read_checkpointing(Keys& keys, TrainArguments& train) {
  train.gradient_checkpointing =
      keys.boolean(one_of(keys, "gradient_checkpointing", "activation_checkpointing"), false);
  for (const char* key : {"gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"}) {
    // Which of torch's two implementations is used makes no difference to any number.
    keys.neutral(key, {Json::object(), Json({{"use_reentrant", false}}), Json({{"use_reentrant", true}})});
  }
}

void read_seed(Keys& keys, TrainArguments& train) {
  train.seed = uint64_t(keys.integer("seed", int64_t(train.seed), {.minimum = 0}));
  const auto data_seed = keys.optional_integer("data_seed", {.minimum = 0});
  if (data_seed && uint64_t(*data_seed) != train.seed) {
    throw unsupported("{} is {}; only the seed itself, {}, is accepted", keys.path("data_seed"), *data_seed,
                      train.seed);
  }
}

}  // namespace

TrainArguments read_train_arguments(const Json& json, const std::string& where) {
  Keys keys(json, where);
  TrainArguments train;
  read_duration(keys, train);
  read_optimizer(keys, train);
  read_schedule(keys, train);
  read_rhythms(keys, train);
  read_checkpointing(keys, train);
  read_seed(keys, train);
  read_fixed_trainer_keys(keys);
  keys.finish();
  return train;
}

Json train_keys(const TrainArguments& train) {
  constexpr const char* kOptimizers[] = {"adamw_torch", "sgd"};
  constexpr const char* kSchedules[] = {"linear", "cosine", "constant", "constant_with_warmup"};
  constexpr const char* kStrategies[] = {"no", "steps", "epoch"};
  Json keys = Json::object();
  keys["learning_rate"] = train.learning_rate;
  keys["num_train_epochs"] = train.num_train_epochs;
  keys["max_steps"] = train.max_steps;
  keys["per_device_train_batch_size"] = train.per_device_train_batch_size;
  keys["per_device_eval_batch_size"] = train.per_device_eval_batch_size;
  keys["gradient_accumulation_steps"] = train.gradient_accumulation_steps;
  keys["max_tokens_per_micro_batch"] = train.max_tokens_per_micro_batch;
  keys["optim"] = kOptimizers[size_t(train.optim)];
  keys["optim_args"] = train.momentum > 0 ? fmt::format("momentum={}", train.momentum) : std::string();
  keys["adam_beta1"] = train.adam_beta1;
  keys["adam_beta2"] = train.adam_beta2;
  keys["adam_epsilon"] = train.adam_epsilon;
  keys["weight_decay"] = train.weight_decay;
  keys["max_grad_norm"] = train.max_grad_norm;
  keys["lr_scheduler_type"] = kSchedules[size_t(train.lr_scheduler_type)];
  keys["warmup_ratio"] = train.warmup_ratio;
  keys["warmup_steps"] = train.warmup_steps;
  keys["seed"] = train.seed;
  keys["eval_strategy"] = kStrategies[size_t(train.eval_strategy)];
  keys["eval_steps"] = train.eval_steps;
  keys["eval_on_start"] = train.eval_on_start;
  keys["eval_at_end"] = train.eval_at_end;
  keys["logging_steps"] = train.logging_steps;
  keys["save_steps"] = train.save_steps;
  keys["gradient_checkpointing"] = train.gradient_checkpointing;
  return keys;
}

}  // namespace coppice
