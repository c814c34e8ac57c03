#include "coordinator/jobs/trainer_keys.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "common/base/error.h"

namespace coppice {
namespace {

struct FixedKey {
  std::string_view name;
  std::string_view accepted;  // JSON values, separated by commas; null is always accepted
  std::string_view instead;   // what does the work here; may be empty
};

constexpr FixedKey kFixed[] = {
    // Where results go.
    {"output_dir", "", "adapters, metrics and the store are written to the folder of --output"},
    {"logging_dir", "", "metrics are written to metrics.jsonl in the folder of --output"},
    {"overwrite_output_dir", "false", "a run on an existing folder goes on where it stood"},
    {"resume_from_checkpoint", "false", "a run on an existing folder goes on where it stood"},
    {"report_to", R"("none", [], ["none"])", "metrics.jsonl has every step"},
    {"push_to_hub", "false", ""},
    {"save_only_model", "false", "a commit holds all that a resume needs"},
    {"save_on_each_node", "false", ""},
    {"save_safetensors", "true", ""},
    {"enable_jit_checkpoint", "false", "SIGTERM commits at the next step boundary"},
    {"load_best_model_at_end", "false", ""},
    {"metric_for_best_model", R"("loss", "eval_loss")", ""},
    {"greater_is_better", "false", ""},
    {"ignore_data_skip", "false", "a resume goes on in the data where it stood"},
    {"restore_callback_states_from_checkpoint", "false", ""},
    // Numbers and devices.
    {"bf16", "false", "--dtype sets the numbers of a run"},
    {"fp16", "false", "--dtype sets the numbers of a run"},
    {"bf16_full_eval", "false", "--dtype sets the numbers of a run"},
    {"fp16_full_eval", "false", "--dtype sets the numbers of a run"},
    {"tf32", "false", "--dtype sets the numbers of a run"},
    {"half_precision_backend", R"("auto")", ""},
    {"fp16_backend", R"("auto")", ""},
    {"fp16_opt_level", R"("O1")", ""},
    {"torch_compile", "false", ""},
    {"torch_compile_backend", "", ""},
    {"torch_compile_mode", "", ""},
    {"torchdynamo", "", ""},
    {"use_ipex", "false", ""},
    {"use_mps_device", "false", ""},
    {"jit_mode_eval", "false", ""},
    {"use_liger_kernel", "false", ""},
    {"liger_kernel_config", "", ""},
    {"auto_find_batch_size", "false", "max_tokens_per_micro_batch bounds the memory"},
    {"fsdp", R"(false, "", [])", "--stages splits the backbone"},
    {"fsdp_config", "{}", "--stages splits the backbone"},
    {"fsdp_min_num_params", "0", "--stages splits the backbone"},
    {"fsdp_transformer_layer_cls_to_wrap", "", "--stages splits the backbone"},
    {"deepspeed", "", "--stages splits the backbone"},
    {"parallelism_config", "", "--stages splits the backbone"},
    {"mp_parameters", R"("")", "--stages splits the backbone"},
    {"accelerator_config", "{}", ""},
    {"split_batches", "false", ""},
    {"dispatch_batches", "false", ""},
    {"tpu_num_cores", "", ""},
    {"tpu_metrics_debug", "false", ""},
    {"debug", R"("", [])", ""},
    {"local_rank", "-1", ""},
    // The optimizer's and the loss's arithmetic.
    {"lr_scheduler_kwargs", "{}", ""},
    {"optim_target_modules", "", "method.target_modules chooses the modules"},
    {"adafactor", "false", "optim chooses the optimizer"},
    {"label_smoothing_factor", "0", ""},
    {"neftune_noise_alpha", "", ""},
    {"average_tokens_across_devices", "true",
     "a step's loss is the sum over its targets divided by their number"},
    {"past_index", "-1", ""},
    {"use_cache", "false", ""},
    // Data.
    {"train_sampling_strategy", R"("random")",
     "data.shuffle: false keeps the order; packs need no grouping by length"},
    {"group_by_length", "false", "packs hold sequences without padding, so nothing is gained by it"},
    {"dataloader_drop_last", "false", ""},
    {"remove_unused_columns", "true", "a row of data holds the keys of its form and no others"},
    {"label_names", R"(["labels"])", ""},
    // Rhythms.
    {"logging_strategy", R"("steps")", "metrics.jsonl has every step"},
    {"logging_first_step", "false", "metrics.jsonl has every step"},
    {"include_num_input_tokens_seen", R"("no", false)", "metrics.jsonl counts tokens"},
    {"include_tokens_per_second", "false", "the progress display shows them"},
    {"eval_delay", "0", ""},
    {"include_for_metrics", "[]", ""},
    {"include_inputs_for_metrics", "false", ""},
    {"batch_eval_metrics", "false", ""},
    {"eval_use_gather_object", "false", ""},
    {"do_predict", "false", "`coppice generate` and `coppice score` use an adapter"},
};

constexpr std::string_view kInformative[] = {
    // Names and displays of the Trainer.
    "run_name", "project", "disable_tqdm", "log_level", "log_level_replica", "log_on_each_node",
    "logging_nan_inf_filter", "skip_memory_metrics", "ray_scope", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id",
    // Flags for scripts, which the Trainer itself does not read.
    "do_train", "do_eval",
    // What a trainer keeps and where it sends it, once push_to_hub is out.
    "save_total_limit", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
    "hub_revision", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token",
    // How rows are loaded and outputs gathered: the loss of an evaluation is the same.
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order",
    "length_column_name", "eval_accumulation_steps", "eval_do_concat_batches", "prediction_loss_only",
    "torch_empty_cache_steps",
    // Torch's distributed processes and devices.
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph",
    "ddp_backend", "ddp_timeout", "use_cpu", "no_cuda",
    // Everything here gives the same bits each time, asked for or not.
    "full_determinism"};

}  // namespace

void read_fixed_trainer_keys(Keys& keys) {
  for (const FixedKey& key : kFixed) {
    const Json* value = keys.value(key.name);
    if (!value) continue;
    const Json accepted = parse_json("[" + std::string(key.accepted) + "]", std::string(key.name));
    if (std::find(accepted.begin(), accepted.end(), *value) != accepted.end()) continue;
    std::string list;
    for (size_t i = 0; i < accepted.size(); ++i) {
      if (i > 0) list += i + 1 == accepted.size() ? " or " : ", ";
      list += shown(accepted[i]);
    }
    throw unsupported("{} is {}; {}{}{}", keys.path(key.name), shown(*value),
                      list.empty() ? "the key is not supported" : "only " + list + " is accepted",
                      key.instead.empty() ? "" : ": ", key.instead);
  }
  for (const std::string_view key : kInformative) keys.informative(key);
}

}  // namespace coppice
