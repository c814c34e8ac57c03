#pragma once
// The tensors of a backbone folder under the names of the house: what a family calls a weight is looked up
// here, its shape checked against the config, once, before anything is packed. Thread: one. Errors:
// kNotFound, kInvalid naming file, tensor and shapes.

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "common/io/safetensors.h"
#include "worker/backbone/config.h"

namespace coppice {

class BackboneWeights {
 public:
  // Opens the folder's safetensors and checks that every weight that the config asks for is there with its
  // shape, in F32, F16 or BF16, and that none is left over that would change the arithmetic (rotary inv_freq
  // buffers and a tied lm_head are known).
  BackboneWeights(const std::string& folder, const BackboneConfig& config);

  const TensorView& projection(int64_t layer, Slot slot) const;    // [out, in]
  std::optional<TensorView> bias(int64_t layer, Slot slot) const;  // [out]
  const TensorView& input_norm(int64_t layer) const;               // [hidden]
  const TensorView& post_attention_norm(int64_t layer) const;
  const TensorView& query_norm(int64_t layer) const;  // [head_dim]
  const TensorView& key_norm(int64_t layer) const;
  const TensorView& final_norm() const;
  const TensorView& embedding() const;           // [vocabulary, hidden]
  const TensorView& head() const;                // the embedding where tied
  void release(const TensorView& tensor) const;  // its mapped pages, to be read again if need be
  // Of names, shapes, dtypes and data of the weights in use, and of what the config says: the identity of the
  // backbone, in job records. Reads everything once, at memory speed, and releases it again.
  uint64_t fingerprint() const;
  int64_t parameters() const;

 private:
  const TensorView& find(const std::string& name) const;
  void check_leftovers() const;
  std::string path_;  // of the folder
  SafetensorsFolder folder_;
  std::string prefix_;                     // "model.", or nothing where the bare model was saved
  std::map<std::string, Shape> expected_;  // what the config asks for, by the name in the file
  const BackboneConfig& config_;
};

}  // namespace coppice
