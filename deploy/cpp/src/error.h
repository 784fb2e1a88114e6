// A user's mistake, told in one line: what was found, what was expected, the remedy.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace segment {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Returns the arguments, as a stream would write them, as one text.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(text(parts...));
}

/// Returns the message with every run of white space as one blank.
inline std::string one_line(const std::string& message) {
  std::istringstream words(message);
  std::string line;
  for (std::string word; words >> word;) line += (line.empty() ? "" : " ") + word;
  return line;
}

}  // namespace segment
