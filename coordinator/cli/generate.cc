#include "coordinator/cli/generate.h"

#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string_view>

#include "common/base/error.h"
#include "common/io/json.h"

namespace coppice {
namespace {

// The ids of eos_token_id in a file of the backbone's folder: one, a list, or none.
void add_stops(const std::string& path, std::set<int32_t>& stops) {
  if (!std::filesystem::exists(path)) return;
  const Json json = read_json_file(path);
  if (!json.is_object() || !json.contains("eos_token_id")) return;
  const Json& ids = json["eos_token_id"];
  const Json list = ids.is_array() ? ids : Json::array({ids});
  for (const Json& id : list) {
    if (id.is_null()) continue;
    const int64_t token = id.is_number_integer() ? id.get<int64_t>() : -1;
    if (token < 0 || token > INT32_MAX) {
      throw invalid("{}.eos_token_id is {}; token ids are accepted", path, shown(ids));
    }
    stops.insert(int32_t(token));
  }
}

std::set<int32_t> stop_tokens(const std::string& folder, const Inference& inference) {
  std::set<int32_t> stops;
  add_stops(folder + "/generation_config.json", stops);
  add_stops(folder + "/config.json", stops);
  if (const auto eos = inference.config().eos) stops.insert(*eos);
  if (const auto eos = inference.tokenizer()->eos()) stops.insert(*eos);
  return stops;
}

// Text as tokens arrive. The whole sequence is decoded each time, since what a token is as text may depend on
// those before it; what may still change stays back: a replacement character at the end is the beginning of a
// longer one.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<int32_t> prompt)
      : tokenizer_(tokenizer), ids_(std::move(prompt)) {
    shown_ = tokenizer_.decode(ids_).size();
  }

  void add(int32_t token) {
    ids_.push_back(token);
    write(false);
  }
  void end() {
    write(true);
    print("\n");
  }

 private:
  void write(bool all) {
    constexpr std::string_view kReplacement = "\xef\xbf\xbd";
    const std::string text = tokenizer_.decode(ids_);
    std::string_view whole = text;
    while (!all && whole.ends_with(kReplacement)) whole.remove_suffix(kReplacement.size());
    if (whole.size() <= shown_) return;
    print(whole.substr(shown_));
    shown_ = whole.size();
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t shown_ = 0;
};

void complete(const GenerateOptions& options, Inference& inference, const std::set<int32_t>& stops,
              const std::vector<int32_t>& prompt, size_t number) {
  const int64_t positions = inference.virtual_rows() + int64_t(prompt.size()) + options.max_new_tokens;
  const auto decoder = inference.stage().decoder(inference.job(), positions);
  Sampler sampler(options, number);
  TextStream stream(*inference.tokenizer(), prompt);
  std::vector<int32_t> next = prompt;
  for (int64_t i = 0; i < options.max_new_tokens; ++i) {
    next = {sampler.next(decoder->append(next))};
    if (stops.contains(next[0])) break;
    stream.add(next[0]);
  }
  stream.end();
}

}  // namespace

int run_generate(const GenerateOptions& options) {
  if (options.max_new_tokens < 1) {
    throw invalid("max-new-tokens is {}; a number of at least 1 is accepted", options.max_new_tokens);
  }
  if (options.prompts.empty()) throw invalid("prompt is missing; a text is accepted, several times too");
  const Sampler checked(options, 0);  // throws for options out of range
  Inference inference(options);
  const std::string& folder = options.backbone;
  if (!inference.tokenizer())
    throw not_found("{}/tokenizer.json does not exist; text needs a tokenizer", folder);
  std::vector<std::vector<int32_t>> prompts;
  for (const std::string& prompt : options.prompts) {
    prompts.push_back(inference.tokenizer()->encode(prompt));
    if (prompts.back().empty()) throw invalid("prompt {} has no tokens", shown(std::string_view(prompt)));
    inference.check_length(int64_t(prompts.back().size()) + options.max_new_tokens,
                           fmt::format("prompt {} and --max-new-tokens {}", shown(std::string_view(prompt)),
                                       options.max_new_tokens));
    for (const int32_t id : prompts.back()) {
      if (id < inference.config().vocabulary) continue;
      throw invalid("{}/tokenizer.json: token {} of prompt {} is beyond the backbone's vocabulary of {}",
                    folder, id, shown(std::string_view(prompt)), inference.config().vocabulary);
    }
  }
  const std::set<int32_t> stops = stop_tokens(folder, inference);
  inference.load();
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts.size() > 1) print(fmt::format("{}>>> {}\n", i == 0 ? "" : "\n", options.prompts[i]));
    complete(options, inference, stops, prompts[i], i);
  }
  return 0;
}

}  // namespace coppice
