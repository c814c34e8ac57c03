// (IA)^3 (Liu et al., 2022, arXiv:2205.05638), as HF peft computes it: one vector l a module.
//   y = l * (W x + bias)    dl += sum over rows of dy * (W x + bias)   what W sees: l * dy
//   feed-forward modules:  y = W (l * x) + bias                        dl += sum over rows of dx' * x,  dx =
//   l * dx'
// where dx' is the gradient of l * x. The first keeps the projection's output before its scaling for the
// backward.

#include <algorithm>

#include "common/base/error.h"
#include "worker/peft/all_methods.h"
#include "worker/peft/pattern.h"
#include "worker/peft/targets.h"
#include "worker/peft/uses.h"

namespace coppice {
namespace {

class Ia3Config : public MethodConfig {
 public:
  Ia3Config(const Method& method, const Json& json, const BackboneConfig& backbone, const std::string& where)
      : MethodConfig(method) {
    Keys keys(json, where);
    read_common_keys(keys);
    read_neutral_module_keys(keys);
    const bool ones = keys.boolean("init_ia3_weights", true);
    const Targets targets = read_targets(keys, backbone, {});
    const Json feedforward = read_feedforward(keys, targets);
    keys.finish();

    for (const Module& module : targets.modules) {
      const bool inner = matches(feedforward, module, keys.path("feedforward_modules"));
      scales_input_.push_back(inner);
      Initial initial;
      initial.kind = ones ? Initial::Kind::kOnes : Initial::Kind::kNormal;
      initial.scale = ones ? 0 : 1;
      // peft: [1, in] where x is scaled, [out, 1] where y is.
      tensors_.push_back({module.path + ".ia3_l",
                          module.layer,
                          {1, inner ? module.in : module.out},
                          initial,
                          hf_tensor_name(module.path, "ia3_l"),
                          !inner});
      (inner ? hooks_.projection_input : hooks_.projection_output) = true;
    }
    index_ = TargetIndex(targets.modules, backbone.layers);
    copies_ = copies_beside(targets.modules);
    config_ = common_config(method.peft_type());
    config_["target_modules"] = targets.target_modules;
    const Json* excluded = keys.value("exclude_modules");
    config_["exclude_modules"] = excluded ? *excluded : Json(nullptr);
    config_["feedforward_modules"] = feedforward;
    config_["fan_in_fan_out"] = false;
    config_["modules_to_save"] = nullptr;
    config_["init_ia3_weights"] = ones;
  }

  Json hf_config() const override { return config_; }
  std::vector<std::string> hf_copies() const override { return copies_; }
  int64_t kept_columns(int64_t layer) const override {
    int64_t columns = 0;  // y before it is scaled
    for (size_t i = 0; i < tensors_.size(); ++i)
      if (tensors_[i].layer == layer && !scales_input_[i]) columns += tensors_[i].shape[1];
    return columns;
  }

  // The number of the module's vector in the manifest, or -1.
  int64_t find(const Module& module) const { return index_.find(module); }
  bool scales_input(int64_t number) const { return scales_input_[size_t(number)]; }

 private:
  // A list matches by ending (also within a part of the path), a string as a whole.
  static bool matches(const Json& feedforward, const Module& module, const std::string& where) {
    if (feedforward.is_string()) {
      return ModulePattern(feedforward.get<std::string>(), where).matches_whole(module.path);
    }
    return std::any_of(feedforward.begin(), feedforward.end(),
                       [&](const Json& name) { return module.path.ends_with(name.get<std::string>()); });
  }

  static Json read_feedforward(Keys& keys, const Targets& targets) {
    const Json* value = keys.value("feedforward_modules");
    if (!value) return Json::array({"down_proj"});
    if (value->is_string()) return *value;
    for (const std::string& name : keys.texts("feedforward_modules")) {
      const auto ends = [&](const Module& module) { return module.path.ends_with(name); };
      if (std::none_of(targets.modules.begin(), targets.modules.end(), ends)) {
        throw invalid("{} names {}, which is none of the target modules {}", keys.path("feedforward_modules"),
                      shown(std::string_view(name)), shown(targets.target_modules));
      }
    }
    return *value;
  }

  std::vector<bool> scales_input_;  // of the tensor with the same number
  TargetIndex index_;
  std::vector<std::string> copies_;
  Json config_;
};

class Ia3 : public Method {
 public:
  std::string_view peft_type() const override { return "IA3"; }
  std::vector<MethodExample> examples() const override {
    return {
        {parse_json(R"({"peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "down_proj"],
                            "feedforward_modules": ["down_proj"]})",
                    "example"),
         true},
        {parse_json(
             R"({"peft_type": "IA3", "target_modules": "all-linear", "feedforward_modules": ".*(q|gate)_proj",
                            "init_ia3_weights": false})",
             "example"),
         false},
        {parse_json(
             R"({"peft_type": "IA3", "target_modules": ["lm_head", "o_proj"], "feedforward_modules": []})",
             "example"),
         true}};
  }
  std::unique_ptr<MethodConfig> configure(const Json& keys, const BackboneConfig& backbone,
                                          const std::string& where) const override {
    return std::make_unique<Ia3Config>(*this, keys, backbone, where);
  }

  bool wants_input(const MethodConfig& config, const Module& module) const override {
    return wants(config, module, true);
  }
  bool wants_output(const MethodConfig& config, const Module& module) const override {
    return wants(config, module, false);
  }

  void projection_input(HookContext& context, const Module& module, std::span<const HookUse> uses,
                        Matrix x) const override {
    std::vector<ScaleColumnsItem> items;
    for (const HookUse& use : uses) {
      const Matrix rows = rows_of(use, x);
      items.push_back({rows, vector(use, module), rows});
    }
    context.backend().scale_columns(items);
  }

  void projection_input_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                                 Matrix x, Matrix dx) const override {
    backward(context, module, uses, dx, [&](const HookUse& use) { return rows_of(use, x); });
  }

  void projection_output(HookContext& context, const Module& module, std::span<const HookUse> uses, Matrix,
                         Matrix y) const override {
    std::vector<UnaryItem> copies;
    std::vector<ScaleColumnsItem> items;
    for (const HookUse& use : uses) {
      const Matrix rows = rows_of(use, y);
      if (context.backward_follows(use)) {
        copies.push_back({rows, context.keep(use, int(module.slot), use.rows, module.out)});
      }
      items.push_back({rows, vector(use, module), rows});
    }
    if (!copies.empty()) context.backend().copy(copies);
    context.backend().scale_columns(items);
  }

  bool changes_dy() const override { return true; }
  void projection_output_backward(HookContext& context, const Module& module, std::span<const HookUse> uses,
                                  Matrix, Matrix dy) const override {
    backward(context, module, uses, dy,
             [&](const HookUse& use) { return context.kept(use, int(module.slot)); });
  }

 private:
  static bool wants(const MethodConfig& config, const Module& module, bool input) {
    const auto& ia3 = static_cast<const Ia3Config&>(config);
    const int64_t number = ia3.find(module);
    return number >= 0 && ia3.scales_input(number) == input;
  }

  static size_t number_of(const HookUse& use, const Module& module) {
    return size_t(config_of<Ia3Config>(use).find(module));
  }
  static Matrix vector(const HookUse& use, const Module& module) {
    return use.adapter->tensors[number_of(use, module)];
  }

  // d is the gradient of the scaled rows and becomes that of the rows before; unscaled(use) gives those.
  template <typename Unscaled>
  static void backward(HookContext& context, const Module& module, std::span<const HookUse> uses, Matrix d,
                       const Unscaled& unscaled) {
    std::vector<ScaleColumnsBackwardItem> items;
    std::vector<ScaleColumnsItem> without_gradient;
    for (const HookUse& use : uses) {
      const Matrix rows = rows_of(use, d);
      const Matrix gradient = gradient_of(use, number_of(use, module));
      if (gradient.empty()) {
        without_gradient.push_back({rows, vector(use, module), rows});
      } else {
        items.push_back({unscaled(use), vector(use, module), rows, rows, gradient});
      }
    }
    if (!items.empty()) context.backend().scale_columns_backward(items);
    if (!without_gradient.empty()) context.backend().scale_columns(without_gradient);
  }
};

}  // namespace

const Method& ia3_method() {
  static const Ia3 method;
  return method;
}

}  // namespace coppice
