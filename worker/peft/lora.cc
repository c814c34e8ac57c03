// LoRA (Hu et al., 2021, arXiv:2106.09685) and rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732), as HF peft
// computes them:
//   y = W x + scale * B A drop(x),   scale = alpha / r, or alpha / sqrt(r) with use_rslora
//   h = A drop(x)
//   dh = scale * B^T dy    dB += scale * dy h^T    dA += dh drop(x)^T    dx += drop(A^T dh)
// Dropout takes part in training only, and is computed again in the backward. At embed_tokens x is a token: A
// has a row a token here (peft's lora_embedding_A is its transpose), h is a row of it, and there is no
// dropout, as in peft.

#include <cmath>

#include "common/base/check.h"
#include "common/base/error.h"
#include "common/base/random.h"
#include "worker/peft/all_methods.h"
#include "worker/peft/targets.h"
#include "worker/peft/uses.h"

namespace coppice {
namespace {

enum class Start { kDefault, kGaussian, kRandom };  // init_lora_weights: true, "gaussian", false

// One module with LoRA: tensors number a and a + 1 of the manifest.
struct Target {
  Module module;
  int64_t rank = 0;
  float scale = 0;
  size_t a = 0;

  bool embedding() const { return module.slot == Slot::kEmbedding; }
};

class LoraConfig : public MethodConfig {
 public:
  LoraConfig(const Method& method, const Json& json, const BackboneConfig& backbone, const std::string& where)
      : MethodConfig(method) {
    Keys keys(json, where);
    read_common_keys(keys);
    read_neutral_module_keys(keys);
    const int64_t rank = keys.integer("r", 8, {.minimum = 1, .maximum = INT32_MAX});
    const double alpha = keys.number("lora_alpha", 8);
    dropout_ = float(keys.number("lora_dropout", 0, {.minimum = 0, .maximum = 0.9999}));
    const bool rank_stabilized = keys.boolean("use_rslora", false);
    const Start start = read_start(keys);
    Targets targets =
        read_targets(keys, backbone, {.fallback = {"q_proj", "v_proj"}, .layers = true, .embedding = true});
    refuse_tied_ends(keys, backbone, targets.modules);
    const PatternValues ranks(keys, "rank_pattern", targets.modules, {.minimum = 1, .maximum = INT32_MAX},
                              true);
    const PatternValues alphas(keys, "alpha_pattern", targets.modules, {}, false);
    refuse_other_keys(keys);
    keys.finish();

    for (const Module& module : targets.modules) {
      const auto r = int64_t(ranks.at(module, double(rank)));
      const double divisor = rank_stabilized ? std::sqrt(double(r)) : double(r);
      targets_.push_back({module, r, float(alphas.at(module, alpha) / divisor), tensors_.size()});
      add_tensors(targets_.back(), start);
    }
    index_ = TargetIndex(targets.modules, backbone.layers);
    hooks_.projection_output = true;
    copies_ = copies_beside(targets.modules);
    write_config(keys, targets);
  }

  Json hf_config() const override { return config_; }
  std::vector<std::string> hf_copies() const override { return copies_; }

  int64_t kept_columns(int64_t layer) const override {
    int64_t columns = 0;  // h; at the embedding it is looked up again
    for (const Target& target : targets_)
      if (!target.embedding() && target.module.layer == layer) columns += target.rank;
    return columns;
  }

  const Target* find(const Module& module) const {
    const int64_t index = index_.find(module);
    return index < 0 ? nullptr : &targets_[size_t(index)];
  }
  float dropout() const { return dropout_; }

 private:
  static Start read_start(Keys& keys) {
    const Json* value = keys.value("init_lora_weights");
    if (!value || *value == Json(true)) return Start::kDefault;
    if (*value == Json(false)) return Start::kRandom;
    if (value->is_string() && (*value == "gaussian" || *value == "Gaussian")) return Start::kGaussian;
    throw unsupported("{} is {}; true, false or \"gaussian\" is supported", keys.path("init_lora_weights"),
                      shown(*value));
  }

  static void refuse_tied_ends(const Keys& keys, const BackboneConfig& backbone,
                               const std::vector<Module>& modules) {
    const bool both = modules.front().slot == Slot::kEmbedding && modules.back().slot == Slot::kHead;
    if (backbone.tied_embeddings && both) {
      throw unsupported(
          "{} selects embed_tokens and lm_head, which are one tied tensor in this backbone; one of them is "
          "supported",
          keys.path("target_modules"));
    }
  }

  // What peft writes besides, at the value that changes nothing.
  static void refuse_other_keys(Keys& keys) {
    keys.neutral("bias", "none");
    for (const char* key : {"use_dora", "use_qalora", "lora_bias", "ensure_weight_tying"}) {
      keys.neutral(key, false);
    }
    for (const char* key : {"megatron_config", "trainable_token_indices", "eva_config", "corda_config",
                            "lora_ga_config", "velora_config", "alora_invocation_tokens", "monteclora_config",
                            "layer_replication", "target_parameters", "arrow_config", "kasa_config"}) {
      keys.neutral(key, Json(nullptr));
    }
    keys.neutral("loftq_config", Json::object());
    keys.neutral("use_bdlora", {Json(nullptr), Json(false)});
    keys.informative("megatron_core");      // where a module would be imported from
    keys.informative("qalora_group_size");  // says nothing while use_qalora is false
  }

  void add_tensors(const Target& target, Start start) {
    const Module& m = target.module;
    Initial a, b;
    if (target.embedding()) {
      // Its weight is the table, [vocabulary, hidden]. peft starts it the other way round: A zero, B normal.
      a = start == Start::kRandom ? Initial{Initial::Kind::kNormal, 1, {}, 0} : Initial{};
      b = {Initial::Kind::kNormal, 1, {}, 0};
      tensors_.push_back({m.path + ".lora_embedding_A",
                          m.layer,
                          {m.out, target.rank},
                          a,
                          hf_tensor_name(m.path, "lora_embedding_A"),
                          true});
      tensors_.push_back({m.path + ".lora_embedding_B",
                          m.layer,
                          {m.in, target.rank},
                          b,
                          hf_tensor_name(m.path, "lora_embedding_B"),
                          false});
      return;
    }
    // torch's nn.Linear: uniform in +-1 / sqrt(inputs).
    const auto linear = [](int64_t inputs) {
      return Initial{Initial::Kind::kUniform, float(1 / std::sqrt(double(inputs))), {}, 0};
    };
    a = start == Start::kGaussian ? Initial{Initial::Kind::kNormal, float(1.0 / double(target.rank)), {}, 0}
                                  : linear(m.in);
    if (start == Start::kRandom) b = linear(target.rank);
    tensors_.push_back({m.path + ".lora_A",
                        m.layer,
                        {target.rank, m.in},
                        a,
                        hf_tensor_name(m.path, "lora_A.weight"),
                        false});
    tensors_.push_back({m.path + ".lora_B",
                        m.layer,
                        {m.out, target.rank},
                        b,
                        hf_tensor_name(m.path, "lora_B.weight"),
                        false});
  }

  void write_config(const Keys& keys, const Targets& targets) {
    Keys given = keys;
    const auto copy = [&](const char* key, const Json& fallback) {
      const Json* value = given.value(key);
      config_[key] = value ? *value : fallback;
    };
    config_ = common_config(method().peft_type());
    copy("r", 8);
    copy("lora_alpha", 8);
    copy("lora_dropout", 0.0);
    config_["target_modules"] = targets.target_modules;
    write_target_keys(keys, config_);
    copy("rank_pattern", Json::object());
    copy("alpha_pattern", Json::object());
    copy("use_rslora", false);
    copy("init_lora_weights", true);
    config_["bias"] = "none";
    config_["fan_in_fan_out"] = false;
    config_["modules_to_save"] = nullptr;
    config_["use_dora"] = false;
  }

  std::vector<Target> targets_;
  TargetIndex index_;
  float dropout_ = 0;
  std::vector<std::string> copies_;
  Json config_;
};

class Lora : public Method {
 public:
  std::string_view peft_type() const override { return "LORA"; }
  std::vector<MethodExample> examples() const override {
    return {{parse_json(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": "all-linear",
                            "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}})",
                        "example"),
             true},
            {parse_json(
                 R"({"peft_type": "LORA", "r": 3, "lora_alpha": 5, "lora_dropout": 0.25, "use_rslora": true,
                            "target_modules": ["embed_tokens", "o_proj"],
                            "exclude_modules": ["layers.0.self_attn.o_proj"]})",
                 "example"),
             true},
            {parse_json(R"({"peft_type": "LORA", "r": 5, "lora_alpha": 5, "init_lora_weights": "gaussian",
                            "target_modules": "lm_head|.*\\.2\\.self_attn\\.[qv]_proj"})",
                        "example"),
             true},
            {parse_json(
                 R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "lora_dropout": 0.5,
                            "init_lora_weights": false,
                            "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [2, 3]})",
                 "example"),
             false}};
  }
  std::unique_ptr<MethodConfig> configure(const Json& keys, const BackboneConfig& backbone,
                                          const std::string& where) const override {
    return std::make_unique<LoraConfig>(*this, keys, backbone, where);
  }

  bool wants_output(const MethodConfig& config, const Module& module) const override {
    return static_cast<const LoraConfig&>(config).find(module) != nullptr;
  }

  // Where A sees another x than W: at the embedding, and with dropout.
  bool changes_output(const MethodConfig& config, const Module& module, bool training) const override {
    return module.slot == Slot::kEmbedding ||
           (training && static_cast<const LoraConfig&>(config).dropout() > 0);
  }

  void low_rank(HookContext& context, const Module& module, std::span<const HookUse> uses,
                std::vector<LowRankItem>& items) const override {
    for (const HookUse& use : uses) {
      if (!is_low_rank(use, module)) continue;
      const Target& target = *config_of<LoraConfig>(use).find(module);
      items.push_back({.down = use.adapter->tensors[target.a],
                       .up = use.adapter->tensors[target.a + 1],
                       .inner = keep_or_scratch(context, use, int(module.slot), use.rows, target.rank),
                       .row = use.row,
                       .scale = target.scale});
    }
  }

  void low_rank_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                         int64_t lower_rows, std::vector<LowRankItem>& items) const override {
    for (const HookUse& use : uses) {
      if (!is_low_rank(use, module) || use.row >= lower_rows) continue;
      CHECK(context.backward_follows(use));  // what is kept stays
      const Target& target = *config_of<LoraConfig>(use).find(module);
      items.push_back({.down = use.adapter->tensors[target.a],
                       .up = use.adapter->tensors[target.a + 1],
                       .inner = context.keep(use, kGradient + int(module.slot), use.rows, target.rank),
                       .row = use.row,
                       .scale = target.scale});
    }
  }

  void projection_output(HookContext& context, const Module& module, std::span<const HookUse> uses, Matrix x,
                         Matrix y) const override {
    std::vector<GatherItem> gathers;
    std::vector<MatmulItem> down, up;
    const std::vector<Matrix> inputs = dropped(context, module, uses, x);
    for (size_t u = 0; u < uses.size(); ++u) {
      const HookUse& use = uses[u];
      if (is_low_rank(use, module)) continue;
      const Target& target = *config_of<LoraConfig>(use).find(module);
      const auto& tensors = use.adapter->tensors;
      Matrix h;
      if (target.embedding()) {
        h = context.scratch(use.rows, target.rank);
        gathers.push_back({tensors[target.a], use.token_ids, h});
      } else {
        h = keep_or_scratch(context, use, int(module.slot), use.rows, target.rank);
        down.push_back({.a = inputs[u], .b = tensors[target.a], .c = h, .transpose_b = true});
      }
      up.push_back({.a = h,
                    .b = tensors[target.a + 1],
                    .c = rows_of(use, y),
                    .transpose_b = true,
                    .alpha = target.scale,
                    .accumulate = true});
    }
    if (!gathers.empty()) context.backend().gather_rows(gathers);
    if (!down.empty()) context.backend().grouped_matmul(down, context.compute());
    if (!up.empty()) context.backend().grouped_matmul(up, context.compute());
  }

  void projection_branch_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                                  Matrix x, Matrix dy, Matrix dx) const override {
    if (module.slot == Slot::kEmbedding) {
      embedding_backward(context, module, uses, dy);
      return;
    }
    const std::vector<Matrix> inputs = dropped(context, module, uses, x);
    std::vector<MatmulItem> first, second, through;
    std::vector<DropoutItem> masks;
    for (size_t u = 0; u < uses.size(); ++u) {
      const HookUse& use = uses[u];
      const Target& target = *config_of<LoraConfig>(use).find(module);
      const Matrix a = use.adapter->tensors[target.a], b = use.adapter->tensors[target.a + 1];
      const Matrix da = gradient_of(use, target.a), db = gradient_of(use, target.a + 1);
      const Matrix dy_rows = rows_of(use, dy), dx_rows = lower_rows_of(use, dx);
      const bool done = is_low_rank(use, module) && !dx_rows.empty();  // dh, and what it adds to dx
      const Matrix dh =
          done ? context.kept(use, kGradient + int(module.slot)) : context.scratch(use.rows, target.rank);
      if (!done) first.push_back({.a = dy_rows, .b = b, .c = dh, .alpha = target.scale});
      if (!db.empty()) {
        first.push_back({.a = dy_rows,
                         .b = context.kept(use, int(module.slot)),
                         .c = db,
                         .transpose_a = true,
                         .alpha = target.scale,
                         .accumulate = true});
      }
      if (!da.empty()) {
        second.push_back({.a = dh, .b = inputs[u], .c = da, .transpose_a = true, .accumulate = true});
      }
      if (done || dx_rows.empty()) continue;
      const DropoutItem mask = mask_of(context, module, use);
      if (mask.p > 0) {
        through.push_back({.a = dh, .b = a, .c = inputs[u]});  // which dA has read by then
        masks.push_back({inputs[u], dx_rows, mask.row_ids, mask.key, mask.p, true});
      } else {
        second.push_back({.a = dh, .b = a, .c = dx_rows, .accumulate = true});
      }
    }
    if (!first.empty()) context.backend().grouped_matmul(first, context.compute());
    if (!second.empty()) context.backend().grouped_matmul(second, context.compute());
    if (!through.empty()) context.backend().grouped_matmul(through, context.compute());
    if (!masks.empty()) context.backend().dropout(masks);
  }

  int64_t scratch_columns(const MethodConfig& config, const Module& module) const override {
    return wants_output(config, module) && static_cast<const LoraConfig&>(config).dropout() > 0 ? module.in
                                                                                                : 0;
  }

 private:
  static constexpr int kGradient = 64;  // of what is kept: dh, beside h

  bool is_low_rank(const HookUse& use, const Module& module) const {
    return !changes_output(config_of<LoraConfig>(use), module, use.segment->training);
  }

  // dh = scale * dy B;  dB += scale * dy^T h;  dA[token] += dh
  static void embedding_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                                 Matrix dy) {
    std::vector<GatherItem> gathers, scatters;
    std::vector<MatmulItem> items;
    for (const HookUse& use : uses) {
      const Target& target = *config_of<LoraConfig>(use).find(module);
      const Matrix da = gradient_of(use, target.a), db = gradient_of(use, target.a + 1);
      if (!db.empty()) {
        const Matrix h = context.scratch(use.rows, target.rank);
        gathers.push_back({use.adapter->tensors[target.a], use.token_ids, h});
        items.push_back({.a = rows_of(use, dy),
                         .b = h,
                         .c = db,
                         .transpose_a = true,
                         .alpha = target.scale,
                         .accumulate = true});
      }
      if (!da.empty()) {
        const Matrix dh = context.scratch(use.rows, target.rank);
        items.push_back(
            {.a = rows_of(use, dy), .b = use.adapter->tensors[target.a + 1], .c = dh, .alpha = target.scale});
        scatters.push_back({da, use.token_ids, dh});
      }
    }
    if (!gathers.empty()) context.backend().gather_rows(gathers);
    if (!items.empty()) context.backend().grouped_matmul(items, context.compute());
    if (!scatters.empty()) context.backend().scatter_add_rows(scatters);
  }

  // The mask of a use at a module, without its matrices; p is 0 where nothing is dropped.
  static DropoutItem mask_of(HookContext& context, const Module& module, const HookUse& use) {
    DropoutItem item;
    if (!use.segment->training) return item;
    item.p = config_of<LoraConfig>(use).dropout();
    item.row_ids = use.row_ids;
    item.key = stream_key(use.adapter->seed, Purpose::kDropout,
                          {uint64_t(use.segment->step), uint64_t(context.layer()), name_hash(module.path)});
    return item;
  }

  // x of each use as A sees it; empty at the embedding.
  static std::vector<Matrix> dropped(HookContext& context, const Module& module,
                                     std::span<const HookUse> uses, Matrix x) {
    std::vector<Matrix> inputs;
    std::vector<DropoutItem> items;
    for (const HookUse& use : uses) {
      if (module.slot == Slot::kEmbedding) {
        inputs.emplace_back();
        continue;
      }
      inputs.push_back(rows_of(use, x));
      DropoutItem item = mask_of(context, module, use);
      if (item.p == 0) continue;
      item.x = inputs.back();
      item.y = inputs.back() = context.scratch(use.rows, module.in);
      items.push_back(item);
    }
    if (!items.empty()) context.backend().dropout(items);
    return inputs;
  }
};

}  // namespace

const Method& lora_method() {
  static const Lora method;
  return method;
}

}  // namespace coppice
