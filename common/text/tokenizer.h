#pragma once
// Text to token ids and back, exactly as the Hugging Face `tokenizers` package does it from the same
// tokenizer.json. Supported are the tokenizers of the backbone families: byte-level BPE (Llama 3, Qwen) and
// BPE with byte fallback (Llama 2, Mistral), with their normalizers, pre-tokenizers, post-processors and
// added tokens; anything else in the file is refused by name. Thread: const methods from any thread. Errors:
// kInvalid, kNotFound, kUnsupported, naming file and field.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coppice {

class Tokenizer {
 public:
  // folder: of the backbone; reads tokenizer.json and, where present, tokenizer_config.json beside it:
  // special tokens and their properties, as transformers honours them (add_bos_token and add_eos_token it
  // does not, beside a tokenizer.json: the post_processor there decides). A path to a tokenizer.json itself
  // is accepted too; then that file alone counts, and there is no bos() or eos().
  static Tokenizer load(const std::string& folder);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Ids of UTF-8 text. Bytes that are not UTF-8 become U+FFFD, one for each maximal bad part. special: add
  // what the post-processor adds (BOS and the like), as HF's add_special_tokens=True.
  std::vector<int32_t> encode(std::string_view text, bool special = true) const;
  // skip_special: leave special tokens out, as HF's skip_special_tokens.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;

  int64_t vocabulary_size() const;  // with added tokens: the largest id + 1
  std::optional<int32_t> id_of(std::string_view token) const;
  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace coppice
