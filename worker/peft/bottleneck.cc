// Bottleneck adapters (Houlsby et al., 2019, arXiv:1902.00751; Pfeiffer et al., 2020, arXiv:2005.00247), the
// keys named as in the AdapterHub library: a small network after a sub-layer, before its residual is added.
// Houlsby has one after the attention (mh_adapter) and one after the MLP (output_adapter), Pfeiffer the
// second alone.
//   z = y D^T + d    a = f(z)    y' = y + a U^T + u
//   da = dy' U    dU += dy'^T a    du += sum dy'    dz = da f'(z)    dD += dz^T y    dd += sum dz    dy = dy'
//   + dz D
// D [m, hidden] and U [hidden, m]. It keeps y and z; a is computed again. HF peft does not know the method:
// the files hold base_model.model.PATH.adapter.{down,up}.{weight,bias} with PATH model.layers.L.self_attn or
// .mlp, and the keys below. init_weights: "mam_adapter" (the default) draws D uniformly in +-1 / sqrt(hidden)
// and sets the rest to zero, so that the start is the identity; "bert" draws D and U from a normal
// distribution of standard deviation 0.02.

#include <algorithm>
#include <cmath>
#include <map>

#include "common/base/error.h"
#include "worker/peft/all_methods.h"
#include "worker/peft/targets.h"
#include "worker/peft/uses.h"

namespace coppice {
namespace {

// Tensors of one place by their distance from its first in the manifest.
enum Part : size_t { kDownWeight, kDownBias, kUpWeight, kUpBias };

class BottleneckConfig : public MethodConfig {
 public:
  BottleneckConfig(const Method& method, const Json& json, const BackboneConfig& backbone,
                   const std::string& where)
      : MethodConfig(method), places_(size_t(backbone.layers) * 2, -1) {
    Keys keys(json, where);
    read_common_keys(keys);
    const std::string preset =
        keys.choice("config", "pfeiffer", {"houlsby", "pfeiffer", "double_seq_bn", "seq_bn"});
    const bool houlsby = preset == "houlsby" || preset == "double_seq_bn";
    const bool after_attention = keys.boolean("mh_adapter", houlsby);
    const bool after_mlp = keys.boolean("output_adapter", true);
    if (!after_attention && !after_mlp) {
      throw invalid("{} and {} are both false; at least one is needed", keys.path("mh_adapter"),
                    keys.path("output_adapter"));
    }
    const std::string non_linearity = read_non_linearity(keys, houlsby ? "swish" : "relu");
    size_ = read_size(keys, backbone.hidden);
    const std::string start = keys.choice("init_weights", "mam_adapter", {"mam_adapter", "bert"});
    const std::vector<int64_t> layers = read_places(keys, backbone.layers);
    refuse_other_keys(keys);
    keys.finish();

    for (const int64_t layer : layers) {
      if (after_attention) add_place(layer, Sublayer::kAttention, backbone.hidden, start);
      if (after_mlp) add_place(layer, Sublayer::kMlp, backbone.hidden, start);
    }
    hooks_.sublayer_output = true;
    config_ = common_config(method.peft_type());
    config_["mh_adapter"] = after_attention;
    config_["output_adapter"] = after_mlp;
    config_["bottleneck_size"] = size_;
    config_["non_linearity"] = non_linearity;
    config_["init_weights"] = start;
    config_["layers_to_transform"] = layers;
  }

  Json hf_config() const override { return config_; }
  int64_t kept_columns(int64_t layer) const override {
    int64_t columns = 0;  // y and z
    for (const Sublayer sublayer : {Sublayer::kAttention, Sublayer::kMlp}) {
      const int64_t first = find(layer, sublayer);
      if (first >= 0) columns += tensors_[size_t(first) + kDownWeight].shape[1] + size_;
    }
    return columns;
  }

  int64_t size() const { return size_; }
  Activation activation() const { return activation_; }
  // The number of the place's first tensor, or -1.
  int64_t find(int64_t layer, Sublayer sublayer) const {
    const size_t place = size_t(layer) * 2 + size_t(sublayer);
    return layer >= 0 && place < places_.size() ? places_[place] : -1;
  }

 private:
  std::string read_non_linearity(Keys& keys, const char* fallback) {
    const std::map<std::string, Activation> known = {{"relu", Activation::kRelu},
                                                     {"swish", Activation::kSilu},
                                                     {"silu", Activation::kSilu},
                                                     {"gelu", Activation::kGelu},
                                                     {"gelu_orig", Activation::kGelu},
                                                     {"gelu_new", Activation::kGeluTanh},
                                                     {"gelu_pytorch_tanh", Activation::kGeluTanh}};
    const std::string name = keys.text("non_linearity", fallback);
    const auto found = known.find(name);
    if (found == known.end()) {
      throw unsupported(
          "{} is {}; relu, swish, silu, gelu, gelu_orig, gelu_new or gelu_pytorch_tanh is supported",
          keys.path("non_linearity"), shown(std::string_view(name)));
    }
    activation_ = found->second;
    return name;
  }

  // bottleneck_size, or hidden / reduction_factor rounded down, at least 1.
  static int64_t read_size(Keys& keys, int64_t hidden) {
    const auto factor =
        keys.optional_number("reduction_factor", {.minimum = 0, .maximum = INT32_MAX, .open_minimum = true});
    const auto size = keys.optional_integer("bottleneck_size", {.minimum = 1, .maximum = INT32_MAX});
    const double quotient = std::floor(double(hidden) / factor.value_or(16));
    if (quotient > INT32_MAX) {
      throw invalid("{} is {}; the bottleneck would have {} features, and at most {} are accepted",
                    keys.path("reduction_factor"), *factor, quotient, INT32_MAX);
    }
    const int64_t reduced = std::max<int64_t>(1, int64_t(quotient));
    if (factor && size && reduced != *size) {
      throw invalid("{} is {}, but {} of {} gives {}; one of the two is enough", keys.path("bottleneck_size"),
                    *size, keys.path("reduction_factor"), *factor, reduced);
    }
    return size.value_or(reduced);
  }

  // layers_to_transform, or all but leave_out.
  static std::vector<int64_t> read_places(Keys& keys, int64_t layers) {
    const auto wanted = read_layers(keys, "layers_to_transform", layers);
    const auto left_out = read_layers(keys, "leave_out", layers);
    std::vector<int64_t> places;
    for (int64_t l = 0; l < layers; ++l) {
      const auto holds = [l](const std::vector<int64_t>& list) {
        return std::find(list.begin(), list.end(), l) != list.end();
      };
      if ((!wanted || wanted->empty() || holds(*wanted)) && !(left_out && holds(*left_out))) {
        places.push_back(l);
      }
    }
    if (places.empty()) {
      throw invalid("{} leaves no layer; at least one is needed", keys.path("leave_out"));
    }
    return places;
  }

  // Of AdapterHub's BnConfig, at the value that changes nothing.
  static void refuse_other_keys(Keys& keys) {
    for (const char* key : {"is_parallel", "use_gating", "cross_adapter", "phm_layer", "ln_before",
                            "ln_after", "adapter_residual_before_ln"}) {
      keys.neutral(key, false);
    }
    keys.neutral("scaling", {Json(1), Json(1.0)});
    keys.neutral("dropout", {Json(0), Json(0.0)});
    keys.neutral("stochastic_depth", {Json(0), Json(0.0)});
    keys.neutral("inv_adapter", Json(nullptr));
  }

  void add_place(int64_t layer, Sublayer sublayer, int64_t hidden, const std::string& start) {
    places_[size_t(layer) * 2 + size_t(sublayer)] = int64_t(tensors_.size());
    Initial down{Initial::Kind::kUniform, float(1 / std::sqrt(double(hidden))), {}, 0}, up;
    if (start == "bert") down = up = {Initial::Kind::kNormal, 0.02f, {}, 0};
    const std::string path =
        "model.layers." + std::to_string(layer) + (sublayer == Sublayer::kAttention ? ".self_attn" : ".mlp");
    const auto add = [&](const char* name, Shape shape, const Initial& initial) {
      tensors_.push_back({path + ".adapter." + name, layer, std::move(shape), initial,
                          hf_tensor_name(path, std::string("adapter.") + name), false});
    };
    add("down.weight", {size_, hidden}, down);
    add("down.bias", {size_}, {});
    add("up.weight", {hidden, size_}, up);
    add("up.bias", {hidden}, {});
  }

  int64_t size_ = 0;
  Activation activation_ = Activation::kRelu;
  std::vector<int64_t> places_;  // by (layer, sub-layer)
  Json config_;
};

class Bottleneck : public Method {
 public:
  std::string_view peft_type() const override { return "BOTTLENECK"; }
  std::vector<MethodExample> examples() const override {
    return {
        {parse_json(R"({"peft_type": "BOTTLENECK", "config": "houlsby", "reduction_factor": 3})", "example"),
         true},
        {parse_json(
             R"({"peft_type": "BOTTLENECK", "config": "pfeiffer", "bottleneck_size": 7,
                            "non_linearity": "gelu",
                            "leave_out": [0, 1]})",
             "example"),
         true},
        {parse_json(
             R"({"peft_type": "BOTTLENECK", "mh_adapter": true, "output_adapter": false, "bottleneck_size": 1,
                            "non_linearity": "gelu_new", "init_weights": "bert",
                            "layers_to_transform": [1, 3]})",
             "example"),
         false}};
  }
  std::unique_ptr<MethodConfig> configure(const Json& keys, const BackboneConfig& backbone,
                                          const std::string& where) const override {
    return std::make_unique<BottleneckConfig>(*this, keys, backbone, where);
  }

  bool wants_sublayer(const MethodConfig& config, int64_t layer, Sublayer sublayer) const override {
    return static_cast<const BottleneckConfig&>(config).find(layer, sublayer) >= 0;
  }

  void sublayer_output(HookContext& context, Sublayer sublayer, std::span<const HookUse> uses,
                       Matrix y) const override {
    std::vector<UnaryItem> copies;
    std::vector<MatmulItem> down, up;
    std::vector<BiasItem> down_bias, up_bias;
    Activations activations;
    for (const HookUse& use : uses) {
      const Matrix rows = rows_of(use, y);
      const int64_t size = config_of<BottleneckConfig>(use).size();
      if (context.backward_follows(use)) {
        copies.push_back({rows, context.keep(use, input_key(sublayer), use.rows, y.cols)});
      }
      const Matrix z = keep_or_scratch(context, use, inner_key(sublayer), use.rows, size);
      const Matrix a = context.scratch(use.rows, size);
      down.push_back(
          {.a = rows, .b = tensor(context, sublayer, use, kDownWeight), .c = z, .transpose_b = true});
      down_bias.push_back({tensor(context, sublayer, use, kDownBias), z});
      activations.add(use, z, a);
      up.push_back({.a = a,
                    .b = tensor(context, sublayer, use, kUpWeight),
                    .c = rows,
                    .transpose_b = true,
                    .accumulate = true});
      up_bias.push_back({tensor(context, sublayer, use, kUpBias), rows});
    }
    Backend& backend = context.backend();
    if (!copies.empty()) backend.copy(copies);
    backend.grouped_matmul(down, context.compute());
    backend.add_bias(down_bias);
    activations.run(backend);
    backend.grouped_matmul(up, context.compute());
    backend.add_bias(up_bias);
  }

  void sublayer_output_backward(HookContext& context, Sublayer sublayer, std::span<const HookUse> uses,
                                Matrix dy) const override {
    std::vector<MatmulItem> first, second;
    std::vector<BiasItem> up_bias, down_bias;
    Activations activations;
    std::map<Activation, std::vector<UnaryBackwardItem>> inner;
    for (const HookUse& use : uses) {
      const Matrix rows = rows_of(use, dy);
      const int64_t size = config_of<BottleneckConfig>(use).size();
      const Matrix z = context.kept(use, inner_key(sublayer));
      const Matrix a = context.scratch(use.rows, size), dz = context.scratch(use.rows, size);
      first.push_back({.a = rows, .b = tensor(context, sublayer, use, kUpWeight), .c = dz});
      inner[config_of<BottleneckConfig>(use).activation()].push_back({z, dz, dz});
      if (const Matrix gradient = gradient_at(context, sublayer, use, kUpWeight); !gradient.empty()) {
        activations.add(use, z, a);
        first.push_back({.a = rows, .b = a, .c = gradient, .transpose_a = true, .accumulate = true});
        up_bias.push_back({gradient_at(context, sublayer, use, kUpBias), rows});
        second.push_back({.a = dz,
                          .b = context.kept(use, input_key(sublayer)),
                          .c = gradient_at(context, sublayer, use, kDownWeight),
                          .transpose_a = true,
                          .accumulate = true});
        down_bias.push_back({gradient_at(context, sublayer, use, kDownBias), dz});
      }
      second.push_back(
          {.a = dz, .b = tensor(context, sublayer, use, kDownWeight), .c = rows, .accumulate = true});
    }
    Backend& backend = context.backend();
    activations.run(backend);
    backend.grouped_matmul(first, context.compute());
    if (!up_bias.empty()) backend.add_bias_backward(up_bias);
    for (const auto& [f, items] : inner) backend.activation_backward(f, items);
    if (!down_bias.empty()) backend.add_bias_backward(down_bias);
    backend.grouped_matmul(second, context.compute());
  }

 private:
  // One call of the backend for each function that occurs.
  struct Activations {
    std::map<Activation, std::vector<UnaryItem>> items;

    void add(const HookUse& use, Matrix z, Matrix a) {
      items[config_of<BottleneckConfig>(use).activation()].push_back({z, a});
    }
    void run(Backend& backend) const {
      for (const auto& [f, of_f] : items) backend.activation(f, of_f);
    }
  };

  static int input_key(Sublayer sublayer) { return int(sublayer) * 2; }
  static int inner_key(Sublayer sublayer) { return int(sublayer) * 2 + 1; }

  static size_t number(HookContext& context, Sublayer sublayer, const HookUse& use, Part part) {
    return size_t(config_of<BottleneckConfig>(use).find(context.layer(), sublayer)) + part;
  }
  static Matrix tensor(HookContext& context, Sublayer sublayer, const HookUse& use, Part part) {
    return use.adapter->tensors[number(context, sublayer, use, part)];
  }
  static Matrix gradient_at(HookContext& context, Sublayer sublayer, const HookUse& use, Part part) {
    return gradient_of(use, number(context, sublayer, use, part));
  }
};

}  // namespace

const Method& bottleneck_method() {
  static const Bottleneck method;
  return method;
}

}  // namespace coppice
