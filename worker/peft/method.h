#pragma once
// How a PEFT method takes part. A method is one file in worker/peft and one line in the registry: its config
// keys, tensors, forward and backward at its hooks, HF names. A family never names a method, a method never
// names a family.
//
// Three objects: a Method is the kind ("LORA"), stateless and shared. A MethodConfig is what
// Method::configure made of one job's keys on one backbone: the manifest of tensors and where they sit;
// immutable, the same on every rank. An Adapter is a job's tensors on one stage at one version, with their
// gradient slots.
//
// The block calls a hook once for all segments of a pack that use it, grouped by kind, so that a method hands
// the device all jobs at once (grouped operators). A use tells which job and which rows. Nothing that a hook
// computes for one segment may depend on another. Gradients accumulate into the adapter's slots in the order
// of the uses.
//
// Thread: configure anywhere; hooks on the compute thread. Errors: kInvalid, kUnsupported from configure,
// naming the field.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/io/json.h"
#include "common/tensor/tensor.h"
#include "kernels/backend.h"
#include "worker/backbone/config.h"
#include "worker/pack.h"

namespace coppice {

class Method;

// How version 0 of a tensor is made, from Philox keyed by (seed, tensor name).
struct Initial {
  enum class Kind { kZeros, kOnes, kNormal, kUniform, kEmbeddingRows };
  Kind kind = Kind::kZeros;
  float scale = 0;  // standard deviation (kNormal), half width (kUniform)
  std::vector<int32_t>
      tokens;              // kEmbeddingRows: the rows of the embedding that it starts from; empty: drawn from
  int64_t vocabulary = 0;  // [0, vocabulary), one for each row of the tensor
};

struct TensorSpec {
  std::string name;   // canonical and stable: "model.layers.3.self_attn.q_proj.lora_A"; keys of the store and
                      // of Philox
  int64_t layer = 0;  // where it lives: -1 the embedding's stage, 0.. that block's, layers the head's
  Shape shape;        // one or two dimensions
  Initial initial;
  std::string hf_name;         // in adapter_model.safetensors
  bool hf_transposed = false;  // the file holds the transpose
};

// Which hooks a config uses; the block asks before it calls.
struct Hooks {
  bool token_rows = false;
  bool projection_input = false;
  bool projection_output = false;
  bool keys_and_values = false;
  bool sublayer_output = false;
};

enum class Sublayer { kAttention, kMlp };

class MethodConfig {
 public:
  virtual ~MethodConfig() = default;
  const Method& method() const { return *method_; }
  const std::vector<TensorSpec>& tensors() const {
    return tensors_;
  }  // in canonical order: by layer, module, name
  const Hooks& hooks() const { return hooks_; }
  int64_t virtual_rows() const { return virtual_rows_; }  // rows before each sequence
  int64_t prefix_rows() const {
    return prefix_rows_;
  }                              // learned keys before each sequence; they take positions
  int64_t lowest_layer() const;  // the smallest TensorSpec::layer
  int64_t trainable_parameters() const;
  // Float32 columns that its hooks keep of each row at a layer, between forward and backward.
  virtual int64_t kept_columns(int64_t /*layer*/) const { return 0; }
  // The keys as HF peft writes them in adapter_config.json (every key that peft needs to load it).
  virtual Json hf_config() const = 0;
  // The tensors as adapter_model.safetensors holds them, and back; in the order of the manifest. The defaults
  // follow TensorSpec::hf_name and hf_transposed. find gives the file's tensor of a name, and throws where
  // there is none; a wrong shape is kInvalid, naming the tensor and both shapes.
  virtual std::vector<std::pair<std::string, Tensor>> to_hf(const std::vector<Tensor>& tensors) const;
  virtual std::vector<Tensor> from_hf(const std::function<Tensor(const std::string& hf_name)>& find) const;
  // Names that peft writes beside those: copies of the backbone's own weights, which nobody needs to read.
  virtual std::vector<std::string> hf_copies() const { return {}; }

 protected:
  explicit MethodConfig(const Method& method) : method_(&method) {}
  const Method* method_;
  std::vector<TensorSpec> tensors_;
  Hooks hooks_;
  int64_t virtual_rows_ = 0;
  int64_t prefix_rows_ = 0;
};

// A job's tensors on a stage: by number in the manifest; empty matrices for those that live on other stages.
struct Adapter {
  std::shared_ptr<const MethodConfig> config;
  uint64_t seed = 0;
  std::vector<Matrix> tensors;    // F32, 1-D tensors as one row
  std::vector<Matrix> gradients;  // the same shapes; empty where none is wanted
};

// Rows of one segment at one hook: all of them, or, at the head, those of one piece of it.
struct HookUse {
  const Adapter* adapter = nullptr;
  const Segment* segment = nullptr;
  int64_t number = 0;         // unlike that of any other use of this hook and pack: the key of what is kept
  int64_t row = 0, rows = 0;  // in the matrices that are handed over
  Matrix row_ids;             // I32 [rows, 2]: sequence in the step, row in the sequence (virtual rows count)
  Matrix token_ids;           // I32 [rows, 1]; at the embedding only
};

// What a hook works with besides its matrices.
class HookContext {
 public:
  virtual ~HookContext() = default;
  virtual Backend& backend() = 0;
  virtual DType compute() const = 0;
  virtual int64_t layer() const = 0;
  // Kept from the forward of this segment at this layer until its backward (recomputed with checkpointing,
  // then kept again): makes it in the forward, or in a hook of the backward for a later one, and finds it
  // there. key: unique within the method's hooks of one layer.
  virtual Matrix keep(const HookUse& use, int key, int64_t rows, int64_t cols) = 0;
  virtual Matrix kept(const HookUse& use, int key) = 0;
  // Until the hook returns.
  virtual Matrix scratch(int64_t rows, int64_t cols) = 0;
  // True where a backward will follow for this segment at this layer: what needs keeping is kept only then.
  virtual bool backward_follows(const HookUse& use) const = 0;
};

// The keys of a small job, for the contract tests, which put every registered method through its paces.
struct MethodExample {
  Json keys;
  bool identity = false;  // at version 0 the backbone computes what it does without the adapter
};

class Method {
 public:
  virtual ~Method() = default;
  virtual std::string_view peft_type() const = 0;  // "LORA"
  // Together they use everything that the method has, on any backbone of four layers with the usual names of
  // modules.
  virtual std::vector<MethodExample> examples() const { return {}; }
  // keys: of the job file's method block or of an adapter_config.json; where: its path for errors. Every key
  // of peft's config is accepted at its neutral value, supported, or refused by name.
  virtual std::unique_ptr<MethodConfig> configure(const Json& keys, const BackboneConfig& backbone,
                                                  const std::string& where) const = 0;

  // Hooks. Matrices span all rows at hand, a use's rows are [row, row + rows) of them. Those of a backward
  // span the rows whose backward reaches this layer, which are the first of the pack; its uses are those with
  // such rows. A use at the embedding (Slot::kEmbedding) has token_ids and an empty x. Where products are in
  // bfloat16, so is a projection's x, and may be its dy, where no method of the pack changes it: what reads
  // dy may do so in products alone. What a hook is to change in place is F32.

  // [rows, hidden] after the embedding lookup: write virtual rows, add to token rows.
  virtual void token_rows(HookContext&, std::span<const HookUse>, Matrix rows) const;
  virtual void token_rows_backward(HookContext&, std::span<const HookUse>, Matrix drows) const;

  // x [rows, in] is the projection's own where any use is asked for: change it in place. dx: in place too.
  virtual bool wants_input(const MethodConfig&, const Module&) const { return false; }
  virtual void projection_input(HookContext&, const Module&, std::span<const HookUse>, Matrix x) const;
  // x: as it was before the forward's change.
  virtual void projection_input_backward(HookContext&, const Module&, std::span<const HookUse>, Matrix x,
                                         Matrix dx) const;

  // What a method adds to a projection's output. First, only from methods that leave that projection's input
  // as it is, products of two thin factors: items for the device to do in the pass of the frozen product
  // (Backend::linear), their inner rows kept, or scratch until projection_output returns. Its backward's
  // items are of the uses among the lower_rows, and their inner rows kept for projection_branch_backward.
  virtual void low_rank(HookContext&, const Module&, std::span<const HookUse>,
                        std::vector<LowRankItem>&) const {}
  virtual void low_rank_backward(HookContext&, const Module&, std::span<const HookUse>,
                                 int64_t /*lower_rows*/, std::vector<LowRankItem>&) const {}
  // Then all else: change y [rows, out] in place, knowing x.
  virtual bool wants_output(const MethodConfig&, const Module&) const { return false; }
  // Whether there is anything else to do, or in its backward for dx. Where there is not for any use, y and dx
  // may be BF16 and are not to be touched.
  virtual bool changes_output(const MethodConfig&, const Module&, bool /*training*/) const { return true; }
  virtual void projection_output(HookContext&, const Module&, std::span<const HookUse>, Matrix x,
                                 Matrix y) const;
  // Its backward has two parts. Before that of W, only of a method that changes_dy(): dy in place to what W
  // is to see.
  virtual bool changes_dy() const { return false; }
  virtual void projection_output_backward(HookContext&, const Module&, std::span<const HookUse>, Matrix x,
                                          Matrix dy) const;
  // After it: what goes beside W, not through it, with dy as W saw it; adds to dx, which has only the rows
  // that go on below this layer (lower_rows_of) and is empty where none does.
  virtual void projection_branch_backward(HookContext&, const Module&, std::span<const HookUse>, Matrix /*x*/,
                                          Matrix /*dy*/, Matrix /*dx*/) const {}
  // Float32 columns that this takes of each row meanwhile, where they are as many as a module's.
  virtual int64_t scratch_columns(const MethodConfig&, const Module&) const { return 0; }

  // Learned pairs before a sequence's own: [prefix_rows, kv_size] each, no rotary. Gradients are accumulated
  // into the second.
  struct KeysValues {
    Matrix keys, values, dkeys, dvalues;
  };
  virtual KeysValues keys_and_values(const Adapter&, int64_t layer) const;

  // After the sub-layer and before its residual: change y [rows, hidden] in place. backward: dy in place.
  virtual bool wants_sublayer(const MethodConfig&, int64_t /*layer*/, Sublayer) const { return false; }
  virtual void sublayer_output(HookContext&, Sublayer, std::span<const HookUse>, Matrix y) const;
  virtual void sublayer_output_backward(HookContext&, Sublayer, std::span<const HookUse>, Matrix dy) const;
};

// --- registry.cc: an explicit list. kUnsupported lists the known kinds.
std::vector<const Method*> methods();
const Method& find_method(std::string_view peft_type);
// Reads peft_type and configures.
std::unique_ptr<MethodConfig> configure_method(const Json& keys, const BackboneConfig& backbone,
                                               const std::string& where);

// Version 0 of a tensor. embedding_row: gives a row of the backbone's embedding as float32, for
// kEmbeddingRows.
Tensor initial_value(const TensorSpec& spec, uint64_t seed,
                     const std::function<std::vector<float>(int32_t token)>& embedding_row);

}  // namespace coppice
