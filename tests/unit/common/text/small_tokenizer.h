#pragma once
// A small tokenizer.json for tests, as JSON to change, and its way through a file. Thread: one.

#include <fstream>
#include <string>
#include <utility>

#include "common/io/json.h"
#include "common/text/tokenizer.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {

// Byte-level: letters of the alphabet that the tests need, a few merges, BOS before every text.
inline Json small_byte_level() {
  Json vocabulary = {{"<s>", 0}, {"</s>", 1}};
  for (const char* token : {"a", "b", "c", "d",  "1",   "2",   ".",  "'",  "s",  "Ġ", "Ã",
                            "©", "Ċ", "č", "ab", "abc", "Ġab", "cd", "bc", "Ã©", "ĠĠ"}) {
    const auto id = int(vocabulary.size());
    vocabulary[token] = id;
  }
  Json document = parse_json(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
      {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
      {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+(?!\\S)|[^\\s\\p{L}]"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": {}, "merges":
      ["b c", "a b", "ab c", "Ġ ab", "c d", "Ã ©", "Ġ Ġ"]}
  })",
                             "small tokenizer");
  document["model"]["vocab"] = std::move(vocabulary);
  return document;
}

// Byte fallback in the manner of Llama 2.
inline Json small_byte_fallback() {
  Json document = small_byte_level();
  Json vocabulary = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"<0xC3>", 3}, {"<0xA9>", 4},
                     {"▁", 5},     {"a", 6},   {"b", 7},    {"▁a", 8},     {"ab", 9},
                     {"▁ab", 10},  {"▁▁", 11}, {"▁▁▁▁", 12}};
  document["model"]["vocab"] = std::move(vocabulary);
  document["model"]["merges"] = Json::array({{"▁", "▁"}, {"▁▁", "▁▁"}, {"▁", "a"}, {"a", "b"}, {"▁a", "b"}});
  document["model"]["unk_token"] = "<unk>";
  document["model"]["byte_fallback"] = true;
  document["model"]["fuse_unk"] = true;
  document["added_tokens"][0]["id"] = 1;
  document["added_tokens"][1]["id"] = 2;
  document["normalizer"] = parse_json(
      R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})",
      "normalizer");
  document["pre_tokenizer"] = nullptr;
  document["post_processor"]["special_tokens"]["<s>"]["ids"] = {1};
  document["decoder"] = parse_json(
      R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
          {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})",
      "decoder");
  return document;
}

class BackboneFolder : public TestFolder {
 public:
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(file(name), std::ios::binary) << text;
  }
};

inline Tokenizer load(const Json& document) {
  const BackboneFolder folder;
  folder.write("tokenizer.json", document.dump());
  return Tokenizer::load(folder.path());
}

}  // namespace coppice
