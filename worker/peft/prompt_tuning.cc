// Prompt tuning (Lester et al., 2021, arXiv:2104.08691), as HF peft computes it: n learned rows stand where
// the embeddings of n tokens before the sequence would. They have positions like tokens and predict nothing.
//   rows of a sequence = [P; embeddings]    dP += the gradient of those rows, sequence by sequence

#include "common/base/check.h"
#include "common/base/error.h"
#include "worker/peft/all_methods.h"
#include "worker/peft/prompt_keys.h"
#include "worker/peft/uses.h"

namespace coppice {
namespace {

class PromptConfig : public MethodConfig {
 public:
  PromptConfig(const Method& method, const Json& json, const BackboneConfig& backbone,
               const std::string& where)
      : MethodConfig(method) {
    Keys keys(json, where);
    const PromptShape shape{backbone.hidden, backbone.heads};
    virtual_rows_ = read_prompt_keys(keys, backbone, shape);
    const std::string init = keys.choice("prompt_tuning_init", "RANDOM", {"RANDOM", "SAMPLE_VOCAB", "TEXT"});
    if (init == "TEXT") {
      throw unsupported("{} is \"TEXT\"; \"RANDOM\" or \"SAMPLE_VOCAB\" is supported",
                        keys.path("prompt_tuning_init"));
    }
    for (const char* key : {"prompt_tuning_init_text", "tokenizer_kwargs"}) keys.neutral(key, Json(nullptr));
    keys.informative("tokenizer_name_or_path");  // of TEXT
    keys.finish();

    Initial initial{Initial::Kind::kNormal, 1, {}, 0};
    if (init == "SAMPLE_VOCAB") initial = {Initial::Kind::kEmbeddingRows, 0, {}, backbone.vocabulary};
    tensors_.push_back(
        {"prompt_embeddings", -1, {virtual_rows_, backbone.hidden}, initial, "prompt_embeddings", false});
    hooks_.token_rows = true;
    config_ = prompt_config(method.peft_type(), virtual_rows_, backbone, shape);
    config_["prompt_tuning_init"] = init;
    config_["prompt_tuning_init_text"] = nullptr;
    config_["tokenizer_name_or_path"] = nullptr;
    config_["tokenizer_kwargs"] = nullptr;
  }

  Json hf_config() const override { return config_; }

 private:
  Json config_;
};

class PromptTuning : public Method {
 public:
  std::string_view peft_type() const override { return "PROMPT_TUNING"; }
  std::vector<MethodExample> examples() const override {
    return {{parse_json(R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5})", "example"), false},
            {parse_json(
                 R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2,
                            "prompt_tuning_init": "SAMPLE_VOCAB"})",
                 "example"),
             false}};
  }
  std::unique_ptr<MethodConfig> configure(const Json& keys, const BackboneConfig& backbone,
                                          const std::string& where) const override {
    return std::make_unique<PromptConfig>(*this, keys, backbone, where);
  }

  void token_rows(HookContext& context, std::span<const HookUse> uses, Matrix rows) const override {
    std::vector<UnaryItem> copies;
    for (const HookUse& use : uses) {
      for_each_prompt(use, rows, [&](Matrix place) { copies.push_back({use.adapter->tensors[0], place}); });
    }
    if (!copies.empty()) context.backend().copy(copies);
  }

  void token_rows_backward(HookContext& context, std::span<const HookUse> uses, Matrix drows) const override {
    std::vector<UnaryItem> sums;
    for (const HookUse& use : uses) {
      const Matrix gradient = gradient_of(use, 0);
      if (gradient.empty()) continue;
      for_each_prompt(use, drows, [&](Matrix place) { sums.push_back({place, gradient}); });
    }
    if (!sums.empty()) context.backend().add(sums);
  }

 private:
  // The virtual rows of each of the segment's sequences. A sequence that goes on from cached rows has none.
  template <typename Visit>
  static void for_each_prompt(const HookUse& use, Matrix rows, const Visit& visit) {
    for (const PackSequence& sequence : use.segment->sequences) {
      if (sequence.virtual_rows == 0) continue;
      CHECK(sequence.virtual_rows == use.adapter->config->virtual_rows());
      visit(rows.row_range(use.row + sequence.row - use.segment->row, sequence.virtual_rows));
    }
  }
};

}  // namespace

const Method& prompt_tuning_method() {
  static const PromptTuning method;
  return method;
}

}  // namespace coppice
