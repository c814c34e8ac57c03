#include "common/text/post_processor.h"

#include "common/text/component.h"

namespace coppice {
namespace {

constexpr std::string_view kTypes = "TemplateProcessing, ByteLevel, Sequence";

// The ids of special_tokens[name].
std::vector<int32_t> special_ids(const Json& special_tokens, const std::string& name,
                                 const std::string& where) {
  if (!special_tokens.is_object())
    throw invalid("{} is {}; an object is accepted", where, shown(special_tokens));
  const auto found = special_tokens.find(name);
  if (found == special_tokens.end()) {
    throw invalid("{} lacks {}, which the template names", where, shown(std::string_view(name)));
  }
  Keys keys(*found, where + "." + name);
  required_text(keys, "id");
  const size_t texts = keys.texts("tokens").size();
  std::vector<int32_t> ids;
  for (const int64_t id : keys.integers("ids")) {
    if (id < 0 || id > INT32_MAX)
      throw invalid("{} holds {}; ids of tokens are accepted", keys.path("ids"), id);
    ids.push_back(int32_t(id));
  }
  keys.finish();
  if (ids.size() != texts)
    throw invalid("{} has {} entries, tokens has {}", keys.path("ids"), ids.size(), texts);
  return ids;
}

}  // namespace

PostProcessor::PostProcessor() : items_{{true, {}}} {}

PostProcessor PostProcessor::from_json(const Json& json, const std::string& where) {
  PostProcessor made;
  if (json.is_null()) return made;
  Keys keys(json, where);
  const std::string type = required_text(keys, "type");
  if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) keys.boolean(key, true);
  } else if (type == "TemplateProcessing") {
    made.items_.clear();
    keys.informative("pair");  // for two texts, which nobody gives here
    const Json& special_tokens = required(keys, "special_tokens");
    read_components(keys, "single", [&](const Json& item, const std::string& place) {
      Keys kinds(item, place);
      const bool text = kinds.has("Sequence");
      Keys piece(required(kinds, text ? "Sequence" : "SpecialToken"), place);
      const std::string id = required_text(piece, "id");
      piece.integer("type_id", 0);
      piece.finish();
      kinds.finish();
      if (text && id != "A") throw invalid("{}.id is {}; A is accepted", place, shown(std::string_view(id)));
      made.items_.push_back({text, text ? std::vector<int32_t>()
                                        : special_ids(special_tokens, id, keys.path("special_tokens"))});
    });
  } else if (type == "Sequence") {
    bool templated = false;
    read_components(keys, "processors", [&](const Json& item, const std::string& place) {
      PostProcessor step = from_json(item, place);
      if (step.items_.size() == 1 && step.items_[0].text) return;
      if (templated) throw unsupported("{}: a second template is not supported", place);
      templated = true;
      made = std::move(step);
    });
  } else {
    throw refused_type(keys, type, kTypes);
  }
  keys.finish();
  return made;
}

void PostProcessor::apply(std::vector<int32_t>& ids, bool special) const {
  if (items_.size() == 1 && items_[0].text) return;
  std::vector<int32_t> result;
  result.reserve(ids.size() + 2);
  for (const Item& item : items_) {
    if (item.text) {
      result.insert(result.end(), ids.begin(), ids.end());
    } else if (special) {
      result.insert(result.end(), item.ids.begin(), item.ids.end());
    }
  }
  ids = std::move(result);
}

}  // namespace coppice
