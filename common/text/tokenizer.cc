#include "common/text/tokenizer.h"

#include <algorithm>
#include <filesystem>

#include "common/text/added_tokens.h"
#include "common/text/bpe.h"
#include "common/text/component.h"
#include "common/text/decoder.h"
#include "common/text/normalizer.h"
#include "common/text/post_processor.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/tokenizer_config.h"
#include "common/text/unicode.h"

namespace coppice {
namespace {

// Normalisation and the byte alphabet make a text longer; what they make must fit the 32-bit offsets of ICU.
constexpr size_t kMaxTextBytes = size_t(128) << 20;

}  // namespace

struct Tokenizer::Impl {
  std::unique_ptr<Bpe> model;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  PostProcessor post_processor;
  std::unique_ptr<Decoder> decoder;
  AddedTokens added;
  std::optional<int32_t> bos, eos;

  void read(const std::string& path);
  void read_added(const Json& list, const std::string& where);
  void configure(const std::string& path);
  std::optional<int32_t> id_of(std::string_view token) const;
  Pieces cut(std::string_view text) const;
  void cut_normalized(std::string_view text, size_t first, Pieces& pieces) const;
};

void Tokenizer::Impl::read(const std::string& path) {
  Json document = read_json_file(path);
  if (!document.is_object()) throw invalid("{} is {}; an object is accepted", path, shown(document));
  const auto place = document.find("model");
  if (place == document.end()) throw invalid("{}: model is missing", path);
  const Json model_json = std::move(*place);  // it is large
  *place = Json("read apart");
  Keys keys(std::move(document), path + ": tokenizer");
  keys.value("model");
  if (const std::string version = keys.text("version", "1.0"); version != "1.0") {
    throw unsupported("{} is {}; 1.0 is supported", keys.path("version"), shown(std::string_view(version)));
  }
  // How long and how wide the batches were of whoever saved the file: transformers sets both anew for every
  // call.
  keys.informative("truncation");
  keys.informative("padding");

  const auto part = [&](const char* key) {
    const Json* json = keys.value(key);
    return json == nullptr ? Json() : *json;
  };
  normalizer = Normalizer::from_json(part("normalizer"), path + ": normalizer");
  pre_tokenizer = PreTokenizer::from_json(part("pre_tokenizer"), path + ": pre_tokenizer");
  post_processor = PostProcessor::from_json(part("post_processor"), path + ": post_processor");
  decoder = Decoder::from_json(part("decoder"), path + ": decoder");
  const Json added_json = part("added_tokens");
  keys.finish();
  model = std::make_unique<Bpe>(model_json, path + ": model");
  read_added(added_json, path + ": added_tokens");
}

void Tokenizer::Impl::read_added(const Json& list, const std::string& where) {
  if (list.is_null()) return;
  if (!list.is_array()) throw invalid("{} is {}; a list is accepted", where, shown(list));
  std::vector<AddedToken> tokens;
  std::vector<int64_t> written;
  for (size_t i = 0; i < list.size(); ++i) {
    Keys keys(list[i], fmt::format("{}[{}]", where, i));
    required(keys, "id");
    written.push_back(keys.integer("id", 0));
    tokens.push_back(read_added_token(keys));
    keys.finish();
  }
  const std::vector<int32_t> ids = added.add(tokens, *model, normalizer.get());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] == written[i]) continue;
    throw invalid("{}[{}].id is {}, but {} is where {} comes to stand", where, i, written[i], ids[i],
                  shown(std::string_view(tokens[i].content)));
  }
}

void Tokenizer::Impl::configure(const std::string& path) {
  const TokenizerConfig config = TokenizerConfig::read(path);
  std::vector<AddedToken> tokens;
  std::vector<int64_t> written;
  for (const auto& [id, token] : config.added_tokens) {
    const AddedToken* known = added.find_content(token.content);
    if (known != nullptr && *known == token) continue;
    tokens.push_back(token);
    written.push_back(id);
  }
  for (const AddedToken& token : config.special_tokens) {
    const auto same = [&](const AddedToken& other) { return other.content == token.content; };
    const auto listed = std::find_if(tokens.begin(), tokens.end(), same);
    if (listed != tokens.end()) {
      listed->special = true;
    } else if (added.find_content(token.content) == nullptr) {
      tokens.push_back(token);
    }
  }
  const std::vector<int32_t> ids = added.add(tokens, *model, normalizer.get());
  for (size_t i = 0; i < written.size(); ++i) {
    if (ids[i] < 0 || ids[i] == written[i]) continue;
    throw invalid("{}: added_tokens_decoder gives {} the id {}, but in tokenizer.json it has {}", path,
                  shown(std::string_view(tokens[i].content)), written[i], ids[i]);
  }
  if (config.split_special_tokens) added.split_special();
  if (config.bos_token) bos = id_of(*config.bos_token);
  if (config.eos_token) eos = id_of(*config.eos_token);
}

std::optional<int32_t> Tokenizer::Impl::id_of(std::string_view token) const {
  const auto id = added.id_of(token);
  return id ? id : model->id_of(token);
}

// Added tokens of the raw text first, then, between them, those of the normalised text.
Pieces Tokenizer::Impl::cut(std::string_view text) const {
  Pieces pieces;
  std::vector<AddedTokens::Part> parts;
  added.cut(text, false, parts);
  for (const auto& part : parts) {
    const std::string_view part_text = text.substr(part.begin, part.end - part.begin);
    if (part.id < 0) {
      cut_normalized(part_text, part.begin == 0 ? char_bytes(part_text[0]) : 0, pieces);
      continue;
    }
    const size_t begin = pieces.text.size();
    pieces.text += part_text;
    pieces.list.push_back({begin, pieces.text.size(), 0, part.id});
  }
  return pieces;
}

void Tokenizer::Impl::cut_normalized(std::string_view text, size_t first, Pieces& pieces) const {
  std::string normalized(text);
  if (normalizer) normalizer->apply(normalized, first);
  std::vector<AddedTokens::Part> parts;
  added.cut(normalized, true, parts);
  const size_t base = pieces.text.size();
  pieces.text += normalized;
  for (const auto& part : parts) {
    pieces.list.push_back({base + part.begin, base + part.end, first - std::min(first, part.begin), part.id});
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const bool is_folder = fs::is_directory(folder, ignored);
  const fs::path file = is_folder ? fs::path(folder) / "tokenizer.json" : fs::path(folder);
  auto impl = std::make_unique<Impl>();
  impl->read(file.string());
  const fs::path config = fs::path(folder) / "tokenizer_config.json";
  if (is_folder && fs::exists(config, ignored)) impl->configure(config.string());
  impl->added.finish(file.string());
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool special) const {
  if (text.size() > kMaxTextBytes)
    throw invalid("a text of {} bytes; at most {} are accepted", text.size(), kMaxTextBytes);
  Pieces pieces = impl_->cut(valid_utf8(text));
  if (impl_->pre_tokenizer) impl_->pre_tokenizer->apply(pieces);
  std::vector<int32_t> ids;
  for (const auto& piece : pieces.list) {
    if (piece.token >= 0) {
      ids.push_back(piece.token);
    } else {
      impl_->model->encode(pieces.view(piece), ids);
    }
  }
  impl_->post_processor.apply(ids, special);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  for (const int32_t id : ids) {
    const std::string* token = impl_->added.text_of(id);
    if (token == nullptr) token = impl_->model->token_of(id);
    if (token == nullptr || (skip_special && impl_->added.is_special(*token))) continue;
    tokens.push_back(*token);
  }
  if (impl_->decoder) impl_->decoder->apply(tokens);
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && !impl_->decoder) text += ' ';
    text += tokens[i];
  }
  return text;
}

int64_t Tokenizer::vocabulary_size() const {
  return int64_t(std::max(impl_->model->largest_id(), impl_->added.largest_id())) + 1;
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  return impl_->id_of(token);
}
std::optional<int32_t> Tokenizer::bos() const {
  return impl_->bos;
}
std::optional<int32_t> Tokenizer::eos() const {
  return impl_->eos;
}

}  // namespace coppice
