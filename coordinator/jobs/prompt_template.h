#pragma once
// How a row of instruction, input and output becomes a prompt: text with the placeholders {instruction} and
// {input}, and {{ and }} for braces themselves, as Python's str.format has them. The output is the completion
// and stands behind the prompt; a template does not hold it. Thread: any. Errors: kInvalid for an unknown
// placeholder or a lone brace.

#include <string>
#include <string_view>

namespace coppice {

// The prompt of Stanford Alpaca, for a row with an input or without one.
std::string_view alpaca_template(bool with_input);

// Throws unless the template holds {instruction}, at most {input} beside it, and no lone brace. where: named
// in the error.
void check_template(std::string_view text, const std::string& where);

// text: a checked template.
std::string fill_template(std::string_view text, std::string_view instruction, std::string_view input);

}  // namespace coppice
