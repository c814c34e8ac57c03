#include "coordinator/jobs/rows.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/io/keys.h"
#include "coordinator/jobs/prompt_template.h"

namespace coppice {
namespace {

constexpr const char* kForms =
    "a row is {\"text\"}, {\"prompt\", \"completion\"}, {\"instruction\", \"input\", \"output\"} or "
    "{\"input_ids\", "
    "\"labels\"}";

bool has(const Json& row, const char* key) {
  return row.contains(key);
}

}  // namespace

void RowReader::check_keys(const Json& row, int64_t line, std::initializer_list<const char*> needed,
                           std::initializer_list<const char*> optional) const {
  for (const char* key : needed) {
    if (!has(row, key))
      throw invalid("{}:{}: \"{}\" is missing beside {}; {}", path_, line, key,
                    shown(std::string_view(row.begin().key())), kForms);
  }
  std::vector<std::string> known(needed.begin(), needed.end());
  known.insert(known.end(), optional.begin(), optional.end());
  for (const auto& [key, value] : row.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      throw invalid("{}:{}: {} does not belong beside \"{}\"; {}", path_, line, shown(std::string_view(key)),
                    *needed.begin(), kForms);
    }
  }
}

Example RowReader::read(const Json& row, int64_t line) const {
  if (data_.prompt_template && (has(row, "input_ids") || has(row, "text") || has(row, "prompt"))) {
    throw invalid(
        "{}:{}: the row has no \"instruction\" that data.template could be filled with; rows of "
        "{{\"instruction\", \"input\", \"output\"}} are accepted, or no template",
        path_, line);
  }
  if (has(row, "input_ids")) {
    check_keys(row, line, {"input_ids"}, {"labels", "attention_mask"});
    return from_ids(row, line);
  }
  if (has(row, "text")) {
    check_keys(row, line, {"text"}, {});
    return from_text(text_of(row, "text", line), line);
  }
  if (has(row, "prompt") || has(row, "completion")) {
    check_keys(row, line, {"prompt", "completion"}, {});
    return from_prompt(text_of(row, "prompt", line), text_of(row, "completion", line), line);
  }
  if (has(row, "instruction") || has(row, "output")) {
    check_keys(row, line, {"instruction", "output"}, {"input"});
    const auto input = row.find("input");
    const bool no_input = input == row.end() || input->is_null();
    const std::string& text = no_input ? std::string() : text_of(row, "input", line);
    const std::string_view form =
        data_.prompt_template ? *data_.prompt_template : alpaca_template(!text.empty());
    return from_prompt(fill_template(form, text_of(row, "instruction", line), text),
                       text_of(row, "output", line), line);
  }
  if (row.empty()) throw invalid("{}:{}: the row is empty; {}", path_, line, kForms);
  const std::string& key = row.begin().key();
  const std::string near =
      nearest(key, {"text", "prompt", "completion", "instruction", "input", "output", "input_ids", "labels"});
  throw invalid("{}:{}: the keys are of no known form ({}{}{}); {}", path_, line,
                shown(std::string_view(key)), near.empty() || near == key ? "" : "; did you mean ",
                near == key ? "" : near, kForms);
}

const std::string& RowReader::text_of(const Json& row, const char* key, int64_t line) const {
  const Json& value = row[key];
  if (!value.is_string()) {
    throw invalid("{}:{}: \"{}\" is {}; a string is accepted", path_, line, key, shown(value));
  }
  return value.get_ref<const std::string&>();
}

std::vector<int32_t> RowReader::ids_of(const Json& row, const char* key, bool ignored, int64_t line) const {
  const Json& list = row[key];
  if (!list.is_array() || list.empty()) {
    throw invalid("{}:{}: \"{}\" is {}; a list of token ids is accepted", path_, line, key,
                  list.is_array() ? "empty" : shown(list));
  }
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& value = list[i];
    const bool whole = value.is_number_integer();  // unsigned ones too
    const int64_t id = !whole                             ? -1
                       : !value.is_number_unsigned()      ? value.get<int64_t>()
                       : value.get<uint64_t>() < 1u << 31 ? int64_t(value.get<uint64_t>())
                                                          : INT64_MAX;
    if (!(whole && ((id >= 0 && id < vocabulary_) || (ignored && id == kIgnored)))) {
      throw invalid("{}:{}: \"{}\"[{}] is {}; a token id below {} is accepted{}", path_, line, key, i,
                    shown(value), vocabulary_, ignored ? ", or -100 for none" : "");
    }
    ids.push_back(int32_t(id));
  }
  return ids;
}

Example RowReader::from_ids(const Json& row, int64_t line) const {
  Example example;
  example.tokens = ids_of(row, "input_ids", false, line);
  const auto labels = row.find("labels");
  const bool labelled = labels != row.end() && !labels->is_null();
  example.labels = labelled ? ids_of(row, "labels", true, line) : example.tokens;
  if (example.labels.size() != example.tokens.size()) {
    throw invalid("{}:{}: \"labels\" has {} values and \"input_ids\" {}; as many are accepted", path_, line,
                  example.labels.size(), example.tokens.size());
  }
  const auto mask = row.find("attention_mask");
  if (mask != row.end() && !mask->is_null()) {
    const bool ones = mask->is_array() && mask->size() == example.tokens.size() &&
                      std::all_of(mask->begin(), mask->end(), [](const Json& value) { return value == 1; });
    if (!ones) {
      throw invalid("{}:{}: \"attention_mask\" is {}; a 1 for each token is accepted: rows have no padding",
                    path_, line, shown(*mask));
    }
  }
  return example;
}

std::vector<int32_t> RowReader::encode(const std::string& text, int64_t line) const {
  if (!tokenizer_) {
    throw invalid(
        "{}:{}: the row is text, but the backbone has no tokenizer.json; {{\"input_ids\"}} is accepted",
        path_, line);
  }
  std::vector<int32_t> tokens = tokenizer_->encode(text);
  const auto beyond =
      std::find_if(tokens.begin(), tokens.end(), [&](int32_t id) { return id < 0 || id >= vocabulary_; });
  if (beyond != tokens.end()) {
    throw invalid("{}:{}: the tokenizer gives id {}, but the backbone has {} tokens", path_, line, *beyond,
                  vocabulary_);
  }
  return tokens;
}

void RowReader::close(std::vector<int32_t>& tokens) const {
  const auto eos = tokenizer_->eos();
  if (eos && (tokens.empty() || tokens.back() != *eos)) tokens.push_back(*eos);
}

Example RowReader::from_text(const std::string& text, int64_t line) const {
  if (text.empty()) throw invalid("{}:{}: \"text\" is empty", path_, line);
  Example example;
  example.tokens = encode(text, line);
  close(example.tokens);
  example.labels = example.tokens;
  return example;
}

Example RowReader::from_prompt(const std::string& prompt, const std::string& completion, int64_t line) const {
  if (completion.empty()) throw invalid("{}:{}: the completion is empty", path_, line);
  Example example;
  example.tokens = encode(prompt + completion, line);
  const std::vector<int32_t> alone = encode(prompt, line);
  if (alone == example.tokens) {
    throw invalid("{}:{}: the completion {} adds no token to its prompt", path_, line,
                  shown(std::string_view(completion)));
  }
  const auto differs =
      std::mismatch(alone.begin(), alone.end(), example.tokens.begin(), example.tokens.end()).second;
  const size_t prompt_tokens = size_t(differs - example.tokens.begin());
  close(example.tokens);
  example.labels = example.tokens;
  if (data_.loss_on == LossOn::kCompletion) {
    std::fill_n(example.labels.begin(), prompt_tokens, kIgnored);
  }
  return example;
}

}  // namespace coppice
