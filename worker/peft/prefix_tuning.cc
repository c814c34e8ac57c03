// Prefix tuning (Li and Liang, 2021, arXiv:2101.00190) without reparametrization, as HF peft computes it: n
// learned pairs of key and value stand before a sequence's own in every layer; no rotary on them, and the
// tokens' positions begin at n. The attention does the arithmetic; here are the tensors. peft keeps one
// tensor [n, layers * 2 * kv_size], its row [layer][key, value][kv head][dim]; here each layer has its keys
// and its values, [n, kv_size] each.

#include <algorithm>

#include "common/base/check.h"
#include "common/base/error.h"
#include "worker/peft/all_methods.h"
#include "worker/peft/prompt_keys.h"
#include "worker/peft/uses.h"

namespace coppice {
namespace {

constexpr const char* kFileTensor = "prompt_embeddings";

class PrefixConfig : public MethodConfig {
 public:
  PrefixConfig(const Method& method, const Json& json, const BackboneConfig& backbone,
               const std::string& where)
      : MethodConfig(method), kv_size_(backbone.kv_size()) {
    Keys keys(json, where);
    const PromptShape shape{backbone.kv_size(), backbone.kv_heads};
    prefix_rows_ = read_prompt_keys(keys, backbone, shape);
    keys.neutral("prefix_projection", false);
    keys.informative("encoder_hidden_size");  // of the projection
    Initial initial{Initial::Kind::kNormal, 1, {}, 0};
    const auto init_weights = keys.optional_text("init_weights");
    if (init_weights) {
      keys.choice("init_weights", "zero", {"zero"});
      initial = {};
    }
    keys.finish();

    for (int64_t l = 0; l < backbone.layers; ++l) {
      const std::string path = "model.layers." + std::to_string(l) + ".self_attn.";
      for (const char* name : {"prefix_keys", "prefix_values"}) {
        tensors_.push_back({path + name, l, {prefix_rows_, kv_size_}, initial, kFileTensor, false});
      }
    }
    hooks_.keys_and_values = true;
    config_ = prompt_config(method.peft_type(), prefix_rows_, backbone, shape);
    config_["prefix_projection"] = false;
    config_["encoder_hidden_size"] = shape.token_dim;
    config_["init_weights"] = init_weights ? Json(*init_weights) : Json(nullptr);
  }

  Json hf_config() const override { return config_; }

  std::vector<std::pair<std::string, Tensor>> to_hf(const std::vector<Tensor>& tensors) const override {
    CHECK(tensors.size() == tensors_.size());
    Tensor file({prefix_rows_, int64_t(tensors.size()) * kv_size_});
    for_each_row(tensors.size(), [&](size_t tensor, size_t at, size_t file_at) {
      std::copy_n(&tensors[tensor].values[at], kv_size_, &file.values[file_at]);
    });
    return {{kFileTensor, std::move(file)}};
  }

  std::vector<Tensor> from_hf(const std::function<Tensor(const std::string& hf_name)>& find) const override {
    const Tensor file = find(kFileTensor);
    const Shape shape = {prefix_rows_, int64_t(tensors_.size()) * kv_size_};
    if (file.shape != shape) {
      throw invalid("tensor {} has shape {}; {} is expected", kFileTensor, shape_string(file.shape),
                    shape_string(shape));
    }
    std::vector<Tensor> tensors(tensors_.size(), Tensor({prefix_rows_, kv_size_}));
    for_each_row(tensors.size(), [&](size_t tensor, size_t at, size_t file_at) {
      std::copy_n(&file.values[file_at], kv_size_, &tensors[tensor].values[at]);
    });
    return tensors;
  }

 private:
  // visit(tensor, offset in it, offset in the file's tensor) for runs of kv_size_ values.
  template <typename Visit>
  void for_each_row(size_t tensors, const Visit& visit) const {
    for (size_t row = 0; row < size_t(prefix_rows_); ++row) {
      for (size_t t = 0; t < tensors; ++t) {
        visit(t, row * size_t(kv_size_), (row * tensors + t) * size_t(kv_size_));
      }
    }
  }

  int64_t kv_size_;
  Json config_;
};

class PrefixTuning : public Method {
 public:
  std::string_view peft_type() const override { return "PREFIX_TUNING"; }
  std::vector<MethodExample> examples() const override {
    return {{parse_json(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5})", "example"), false},
            {parse_json(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 1, "init_weights": "zero"})",
                        "example"),
             false}};
  }
  std::unique_ptr<MethodConfig> configure(const Json& keys, const BackboneConfig& backbone,
                                          const std::string& where) const override {
    return std::make_unique<PrefixConfig>(*this, keys, backbone, where);
  }

  KeysValues keys_and_values(const Adapter& adapter, int64_t layer) const override {
    const size_t keys = size_t(layer) * 2, values = keys + 1;
    KeysValues pairs{adapter.tensors[keys], adapter.tensors[values], {}, {}};
    if (!adapter.gradients.empty()) {
      pairs.dkeys = adapter.gradients[keys];
      pairs.dvalues = adapter.gradients[values];
    }
    return pairs;
  }
};

}  // namespace

const Method& prefix_tuning_method() {
  static const PrefixTuning method;
  return method;
}

}  // namespace coppice
