#pragma once
// A job as its user describes it: typed, checked, with the names, defaults and meanings of
// transformers.TrainingArguments and of HF peft's configs. What is read here is all that a job's arithmetic
// depends on besides its data. Plain data. Thread: any.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/io/json.h"

namespace coppice {

enum class Optimizer { kAdamW, kSgd };  // optim: adamw_torch (and its fused and plain aliases), sgd
enum class LrSchedule { kLinear, kCosine, kConstant, kConstantWithWarmup };
enum class EvalStrategy { kNo, kSteps, kEpoch };

struct TrainArguments {
  double learning_rate = 5e-5;
  double num_train_epochs = 3;
  int64_t max_steps = -1;  // > 0 overrides num_train_epochs
  int64_t per_device_train_batch_size = 8;
  int64_t per_device_eval_batch_size = 8;
  int64_t gradient_accumulation_steps = 1;
  int64_t max_tokens_per_micro_batch = 0;  // 0: 2048, or max_length and the virtual rows where that is more
  Optimizer optim = Optimizer::kAdamW;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double momentum = 0;  // of sgd, from optim_args "momentum=0.9"
  double weight_decay = 0;
  double max_grad_norm = 1;  // 0: no clipping, as in HF
  LrSchedule lr_scheduler_type = LrSchedule::kLinear;
  double warmup_ratio = 0;
  int64_t warmup_steps = 0;  // > 0 overrides warmup_ratio
  uint64_t seed = 42;
  EvalStrategy eval_strategy = EvalStrategy::kNo;
  double eval_steps = 0;  // 0: logging_steps, as in HF; in (0, 1): a share of all steps
  bool eval_on_start = false;
  bool eval_at_end =
      true;  // where there is evaluation data: one evaluation after the last step, whatever the strategy
  double logging_steps = 500;  // of the progress lines; metrics.jsonl has every step
  int64_t save_steps = 0;      // 0: commits run beside the steps without a rhythm of their own
  bool gradient_checkpointing = false;
};

enum class LossOn { kCompletion, kAll };
enum class OnLong { kError, kTruncate, kDrop };

struct DataArguments {
  std::string train;                // path, absolute after reading
  std::optional<std::string> eval;  // path
  double eval_split =
      0;  // share (0, 1) or number (>= 1) of the training rows held out, where there is no eval file
  int64_t max_length = 0;  // tokens of a sequence; 0: 1024, or what the backbone has where that is less
  OnLong on_long = OnLong::kError;
  LossOn loss_on = LossOn::kCompletion;
  bool shuffle = true;
  std::optional<std::string>
      prompt_template;  // data.template: "{instruction}...{input}...", for rows of instruction form

  int64_t length_limit() const { return max_length > 0 ? max_length : 1024; }
};

struct JobSpec {
  std::string name;  // [A-Za-z0-9][A-Za-z0-9._@=,+-]*, at most 200 bytes: it is a folder name
  Json method;  // as given, for configure_method; with init_adapter: keys that must agree with the adapter's
                // own
  DataArguments data;
  TrainArguments train;
  std::optional<std::string> init_adapter;  // path of an HF adapter folder
  int64_t priority = 1;                     // >= 1: weight in the scheduler; changes no bits
  Json keys;  // canonical: every key with its value, defaults filled in; two specs are the same job when
              // these are equal
};

struct JobFile {
  std::string path;
  std::string backbone;  // absolute
  std::vector<JobSpec> jobs;
};

}  // namespace coppice
