#include "coordinator/cli/inference.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/io/files.h"
#include "coordinator/adapters/hugging_face.h"

namespace coppice {

Inference::Inference(const InferenceOptions& options)
    : folder_(options.backbone), config_(read_backbone_config(options.backbone)), device_(options.compute) {
  if (std::filesystem::exists(folder_ + "/tokenizer.json")) tokenizer_ = Tokenizer::load(folder_);
  if (!options.adapter) return;
  ImportedAdapter adapter = import_adapter(*options.adapter, config_);
  job_ = "adapter";
  method_ = std::move(adapter.config);
  tensors_ = std::move(adapter.tensors);
}

void Inference::load() {
  const StageOptions options{.first_layer = 0, .end_layer = config_.layers, .compute = device_.compute};
  stage_ = std::make_unique<Stage>(*device_.backend, config_, folder_, options);
  if (!method_) return;
  std::vector<NumberedTensor> numbered;
  for (size_t i = 0; i < tensors_.size(); ++i) numbered.push_back({int64_t(i), std::move(tensors_[i])});
  stage_->set_adapter(job_, method_, 0, 0, views_of(numbered), false);
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw system_error("standard output", "cannot write", errno);
  }
}

void Inference::check_length(int64_t tokens, const std::string& what) const {
  const int64_t added = virtual_rows() + prefix_rows();
  if (config_.rope.type == Rope::Type::kDynamic || tokens + added <= config_.max_positions) return;
  throw invalid(
      "{}: {} tokens; the backbone has {} positions (max_position_embeddings), of which the adapter takes {}",
      what, tokens, config_.max_positions, added);
}

}  // namespace coppice
