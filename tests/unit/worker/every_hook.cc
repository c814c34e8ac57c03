#include "tests/unit/worker/every_hook.h"

#include <map>

namespace coppice {
namespace {

class EveryHookConfig final : public MethodConfig {
 public:
  EveryHookConfig(const Method& method, const BackboneConfig& backbone, int64_t first_layer)
      : MethodConfig(method) {
    hooks_ = {true, true, true, true, true};
    if (first_layer < 0) {
      virtual_rows_ = 2;
      add("E", -1, {backbone.vocabulary, backbone.hidden}, Initial::Kind::kZeros);
      add("P", -1, {virtual_rows_, backbone.hidden}, Initial::Kind::kZeros);
      add("s", -1, {backbone.hidden}, Initial::Kind::kZeros);
    }
    hooks_.token_rows = first_layer < 0;
    prefix_rows_ = 2;
    for (const Module& module : backbone_modules(backbone)) {
      if (module.slot == Slot::kEmbedding || module.layer < first_layer) continue;
      add(module.path + ".A", module.layer, {module.out, module.in}, Initial::Kind::kZeros);
      add(module.path + ".c", module.layer, {module.out}, Initial::Kind::kOnes);
      if (module.slot != Slot::kHead)
        add(module.path + ".g", module.layer, {module.in}, Initial::Kind::kOnes);
      if (module.slot != Slot::kQuery) continue;
      const std::string layer = std::to_string(module.layer);
      add("keys." + layer, module.layer, {prefix_rows_, backbone.kv_size()}, Initial::Kind::kZeros);
      add("values." + layer, module.layer, {prefix_rows_, backbone.kv_size()}, Initial::Kind::kZeros);
      add("u0." + layer, module.layer, {backbone.hidden}, Initial::Kind::kOnes);
      add("u1." + layer, module.layer, {backbone.hidden}, Initial::Kind::kOnes);
    }
  }

  Json hf_config() const override { return {}; }
  bool has(const std::string& name) const { return numbers_.count(name) > 0; }
  size_t number(const std::string& name) const { return numbers_.at(name); }

 private:
  void add(const std::string& name, int64_t layer, Shape shape, Initial::Kind initial) {
    numbers_[name] = tensors_.size();
    tensors_.push_back({name, layer, std::move(shape), {initial, 0, {}, 0}, name, false});
  }
  std::map<std::string, size_t> numbers_;
};

const EveryHookConfig& config_of(const Adapter& adapter) {
  return static_cast<const EveryHookConfig&>(*adapter.config);
}
Matrix value(const HookUse& use, const std::string& name) {
  return use.adapter->tensors[config_of(*use.adapter).number(name)];
}
Matrix gradient(const HookUse& use, const std::string& name) {
  return use.adapter->gradients[config_of(*use.adapter).number(name)];
}
Matrix part(const HookUse& use, Matrix rows) {
  return rows.row_range(use.row, use.rows);
}

class EveryHook final : public Method {
 public:
  std::string_view peft_type() const override { return "EVERY_HOOK"; }
  std::unique_ptr<MethodConfig> configure(const Json&, const BackboneConfig& backbone,
                                          const std::string&) const override {
    return std::make_unique<EveryHookConfig>(*this, backbone, -1);
  }

  void token_rows(HookContext& context, std::span<const HookUse> uses, Matrix rows) const override {
    for_sequences(uses, rows, [&](const HookUse& use, Matrix prompt, Matrix tokens) {
      const UnaryItem copy{value(use, "P"), prompt};
      const BiasItem shift{value(use, "s"), tokens};
      if (prompt.rows > 0) context.backend().copy({&copy, 1});
      context.backend().add_bias({&shift, 1});
    });
  }
  void token_rows_backward(HookContext& context, std::span<const HookUse> uses, Matrix drows) const override {
    for_sequences(uses, drows, [&](const HookUse& use, Matrix prompt, Matrix tokens) {
      const UnaryItem add{prompt, gradient(use, "P")};
      const BiasItem shift{gradient(use, "s"), tokens};
      context.backend().add({&add, 1});
      context.backend().add_bias_backward({&shift, 1});
      context.backend().fill(prompt, 0);  // the embedding below had no part in them
    });
  }

  bool wants_input(const MethodConfig& config, const Module& module) const override {
    return static_cast<const EveryHookConfig&>(config).has(module.path + ".g");
  }
  void projection_input(HookContext& context, const Module& module, std::span<const HookUse> uses,
                        Matrix x) const override {
    for (const HookUse& use : uses) {
      const ScaleColumnsItem item{part(use, x), value(use, module.path + ".g"), part(use, x)};
      context.backend().scale_columns({&item, 1});
    }
  }
  void projection_input_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                                 Matrix x, Matrix dx) const override {
    for (const HookUse& use : uses) {
      const ScaleColumnsBackwardItem item{part(use, x), value(use, module.path + ".g"), part(use, dx),
                                          part(use, dx), gradient(use, module.path + ".g")};
      context.backend().scale_columns_backward({&item, 1});
    }
  }

  bool wants_output(const MethodConfig& config, const Module& module) const override {
    const auto& own = static_cast<const EveryHookConfig&>(config);
    return own.has(module.slot == Slot::kEmbedding ? "E" : module.path + ".A");
  }
  void projection_output(HookContext& context, const Module& module, std::span<const HookUse> uses, Matrix x,
                         Matrix y) const override {
    for (const HookUse& use : uses) {
      if (module.slot == Slot::kEmbedding) {
        const Matrix rows = context.scratch(use.rows, y.cols);
        const GatherItem item{value(use, "E"), use.token_ids, rows};
        const UnaryItem add{rows, part(use, y)};
        context.backend().gather_rows({&item, 1});
        context.backend().add({&add, 1});
        continue;
      }
      const MatmulItem product{.a = part(use, x),
                               .b = value(use, module.path + ".A"),
                               .c = part(use, y),
                               .transpose_b = true,
                               .accumulate = true};
      context.backend().grouped_matmul({&product, 1}, context.compute());
      keep(context, use, int(module.slot), part(use, y));
      const ScaleColumnsItem scale{part(use, y), value(use, module.path + ".c"), part(use, y)};
      context.backend().scale_columns({&scale, 1});
    }
  }
  bool changes_dy() const override { return true; }
  void projection_output_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                                  Matrix, Matrix dy) const override {
    if (module.slot == Slot::kEmbedding) return;
    for (const HookUse& use : uses)
      unscale(context, use, int(module.slot), module.path + ".c", part(use, dy));
  }
  void projection_branch_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                                  Matrix x, Matrix dy, Matrix dx) const override {
    for (const HookUse& use : uses) {
      if (module.slot == Slot::kEmbedding) {
        const GatherItem item{gradient(use, "E"), use.token_ids, part(use, dy)};
        context.backend().scatter_add_rows({&item, 1});
        continue;
      }
      const MatmulItem da{.a = part(use, dy),
                          .b = part(use, x),
                          .c = gradient(use, module.path + ".A"),
                          .transpose_a = true,
                          .accumulate = true};
      context.backend().grouped_matmul({&da, 1}, context.compute());
      if (use.row >= dx.rows) continue;
      const MatmulItem through{
          .a = part(use, dy), .b = value(use, module.path + ".A"), .c = part(use, dx), .accumulate = true};
      context.backend().grouped_matmul({&through, 1}, context.compute());
    }
  }

  KeysValues keys_and_values(const Adapter& adapter, int64_t layer) const override {
    const EveryHookConfig& config = config_of(adapter);
    const std::string keys = "keys." + std::to_string(layer), values = "values." + std::to_string(layer);
    if (!config.has(keys)) return {};
    const size_t k = config.number(keys), v = config.number(values);
    return {adapter.tensors[k], adapter.tensors[v], adapter.gradients[k], adapter.gradients[v]};
  }

  bool wants_sublayer(const MethodConfig& config, int64_t layer, Sublayer sublayer) const override {
    return static_cast<const EveryHookConfig&>(config).has(scale_name(layer, sublayer));
  }
  void sublayer_output(HookContext& context, Sublayer sublayer, std::span<const HookUse> uses,
                       Matrix y) const override {
    for (const HookUse& use : uses) {
      keep(context, use, 100 + int(sublayer), part(use, y));
      const ScaleColumnsItem scale{part(use, y), value(use, scale_name(context.layer(), sublayer)),
                                   part(use, y)};
      context.backend().scale_columns({&scale, 1});
    }
  }
  void sublayer_output_backward(HookContext& context, Sublayer sublayer, std::span<const HookUse> uses,
                                Matrix dy) const override {
    for (const HookUse& use : uses)
      unscale(context, use, 100 + int(sublayer), scale_name(context.layer(), sublayer), part(use, dy));
  }

 private:
  static std::string scale_name(int64_t layer, Sublayer sublayer) {
    return (sublayer == Sublayer::kAttention ? "u0." : "u1.") + std::to_string(layer);
  }
  static void keep(HookContext& context, const HookUse& use, int key, Matrix rows) {
    if (!context.backward_follows(use)) return;
    const UnaryItem copy{rows, context.keep(use, key, rows.rows, rows.cols)};
    context.backend().copy({&copy, 1});
  }
  // dy of rows scaled by a tensor becomes that of the rows before, which were kept.
  static void unscale(HookContext& context, const HookUse& use, int key, const std::string& name, Matrix dy) {
    const ScaleColumnsBackwardItem item{context.kept(use, key), value(use, name), dy, dy,
                                        gradient(use, name)};
    context.backend().scale_columns_backward({&item, 1});
  }
  template <typename Visit>
  static void for_sequences(std::span<const HookUse> uses, Matrix rows, const Visit& visit) {
    for (const HookUse& use : uses)
      for (const PackSequence& sequence : use.segment->sequences) {
        const Matrix own = rows.row_range(sequence.row, sequence.rows());
        visit(use, own.row_range(0, sequence.virtual_rows),
              own.row_range(sequence.virtual_rows, sequence.tokens));
      }
  }
};

}  // namespace

std::shared_ptr<const MethodConfig> every_hook_config(const BackboneConfig& backbone, int64_t first_layer) {
  static const EveryHook method;
  return std::make_shared<EveryHookConfig>(method, backbone, first_layer);
}

}  // namespace coppice
