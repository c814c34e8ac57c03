#include "coordinator/jobs/prompt_template.h"

#include "common/base/error.h"
#include "common/io/json.h"

namespace coppice {
namespace {

// Calls literal(text) and placeholder(name) in order; where is named in errors.
template <typename Literal, typename Placeholder>
void walk(std::string_view text, const std::string& where, Literal literal, Placeholder placeholder) {
  for (size_t at = 0; at < text.size();) {
    const size_t brace = text.find_first_of("{}", at);
    literal(text.substr(at, brace - at));
    if (brace == std::string_view::npos) return;
    if (brace + 1 < text.size() && text[brace + 1] == text[brace]) {
      literal(text.substr(brace, 1));
      at = brace + 2;
      continue;
    }
    const size_t end = text[brace] == '{' ? text.find('}', brace) : std::string_view::npos;
    if (end == std::string_view::npos) {
      throw invalid("{} has a lone {} at byte {}; a brace itself is written twice", where, text[brace],
                    brace);
    }
    placeholder(text.substr(brace + 1, end - brace - 1));
    at = end + 1;
  }
}

constexpr std::string_view kAlpacaWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### "
    "Input:\n{input}\n\n"
    "### Response:\n";
constexpr std::string_view kAlpacaWithoutInput =
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n";

}  // namespace

std::string_view alpaca_template(bool with_input) {
  return with_input ? kAlpacaWithInput : kAlpacaWithoutInput;
}

void check_template(std::string_view text, const std::string& where) {
  bool instruction = false;
  walk(
      text, where, [](std::string_view) {},
      [&](std::string_view name) {
        if (name == "instruction") {
          instruction = true;
        } else if (name == "output") {
          throw invalid("{} holds {{output}}; a template is the prompt alone, the output follows it", where);
        } else if (name != "input") {
          throw invalid("{} holds the placeholder {}; {{instruction}} and {{input}} are accepted", where,
                        shown(name));
        }
      });
  if (!instruction) throw invalid("{} has no {{instruction}}", where);
}

std::string fill_template(std::string_view text, std::string_view instruction, std::string_view input) {
  std::string prompt;
  prompt.reserve(text.size() + instruction.size() + input.size());
  walk(
      text, "template", [&](std::string_view literal) { prompt += literal; },
      [&](std::string_view name) { prompt += name == "input" ? input : instruction; });
  return prompt;
}

}  // namespace coppice
