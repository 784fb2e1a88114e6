#include "image_sources.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include "error.h"
#include "files.h"

namespace segment {

namespace fs = std::filesystem;

namespace {

// .npy is among them so that such a file is reported by name
const std::set<std::string> kSuffixes = {".jpg",  ".jpeg", ".png",  ".bmp",
                                         ".webp", ".tif",  ".tiff", ".npy"};
constexpr char kBlanks[] = " \t\v\f";

std::string lower(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char letter) { return std::tolower(letter); });
  return name;
}

std::string stripped(const std::string& line) {
  const std::size_t start = std::min(line.find_first_not_of(kBlanks), line.size());
  return line.substr(start, line.find_last_not_of(kBlanks) + 1 - start);
}

/// Returns the images under a folder and its sub-folders. Links to folders are followed, but no
/// folder is entered twice; hidden files and folders and macOS's resource forks are passed over.
std::vector<fs::path> in_folder(const fs::path& folder, const std::vector<fs::path>& excluded) {
  std::set<fs::path> entered;
  for (const fs::path& item : excluded) entered.insert(fs::weakly_canonical(item));
  std::vector<fs::path> waiting = {folder}, found;
  while (!waiting.empty()) {
    const fs::path parent = waiting.back();
    waiting.pop_back();
    if (!entered.insert(fs::canonical(parent)).second) continue;
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(parent)) {
      const fs::path name = entry.path().filename();
      std::error_code broken;  // such as a link to nowhere, which reading will report
      if (name.string()[0] == '.') continue;
      if (entry.is_directory(broken) && name != "__MACOSX") folders.push_back(entry.path());
      const bool is_file = entry.is_regular_file(broken) || !entry.exists(broken);
      if (is_file && kSuffixes.count(lower(name.extension().string())) > 0)
        found.push_back(entry.path());
    }
    std::sort(folders.rbegin(), folders.rend());  // the last of those waiting is entered next
    waiting.insert(waiting.end(), folders.begin(), folders.end());
  }
  if (found.empty()) fail(folder.string(), ": no images in this folder.");
  std::sort(found.begin(), found.end());
  return found;
}

/// Returns the text between double quotes that a line begins with; two of them stand for one.
std::string quoted(const std::string& line) {
  std::string item;
  for (std::size_t at = 1; at < line.size(); ++at) {
    if (line[at] == '"' && (++at >= line.size() || line[at] != '"')) break;
    item += line[at];
  }
  return item;
}

/// Returns the image in a line of a list; a label may follow it, and both may hold spaces.
std::string first_path(const std::string& line, const fs::path& root) {
  if (line[0] == '"') return quoted(line);
  const char separator = line.find('\t') != line.npos ? '\t' : ' ';
  for (std::size_t end = line.size(); end != line.npos && end > 0;
       end = line.rfind(separator, end - 1)) {
    const std::string name = stripped(line.substr(0, end));
    std::error_code ignored;  // such as a name that is too long
    if (fs::is_regular_file(root / name, ignored)) return name;
  }
  return line.substr(0, line.find(separator));
}

/// Returns the images in a list file, an image a line; lines that begin with # are comments.
std::vector<fs::path> in_list(const fs::path& list) {
  const Bytes content = read_bytes(list);
  std::string text(content.begin(), content.end());
  for (const std::string mark : {"\xff\xfe", "\xfe\xff"})
    if (text.rfind(mark, 0) == 0)
      fail(list.string(), ": a list in UTF-16, expected UTF-8. Save the list as UTF-8.");
  if (text.rfind("\xef\xbb\xbf", 0) == 0) text.erase(0, 3);
  std::replace(text.begin(), text.end(), '\r', '\n');  // of \r\n it leaves an empty line
  std::vector<fs::path> found;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    const std::string line = stripped(text.substr(start, end - start));
    if (!line.empty() && line[0] != '#')
      found.push_back(list.parent_path() / first_path(line, list.parent_path()));
    start = end + 1;
  }
  if (found.empty()) fail(list.string(), ": names no images.");
  return found;
}

fs::path in_full(const fs::path& path) {
  const fs::path result = fs::absolute(path.empty() ? "." : path).lexically_normal();
  return result.has_filename() ? result : result.parent_path();  // without a slash at the end
}

bool is_below(const fs::path& path, const fs::path& folder) {
  return *path.lexically_relative(folder).begin() != "..";
}

/// Names the results of each image once, below one folder: relative to `root`, or to the folder
/// that all images share where some lie elsewhere. Suffixes are dropped, but where two images would
/// then have one name (a.jpg and a.png), on file systems too that know no capital letters.
std::vector<ImageFile> named(const std::vector<fs::path>& paths, const fs::path& root) {
  const auto holds_all = [&](const fs::path& folder) {
    return std::all_of(paths.begin(), paths.end(),
                       [&](const fs::path& path) { return is_below(in_full(path), folder); });
  };
  fs::path folder = in_full(root);
  if (!holds_all(folder)) folder = in_full(paths[0]).parent_path();
  while (!holds_all(folder)) folder = folder.parent_path();
  std::vector<ImageFile> images;
  std::vector<std::string> full;
  std::set<fs::path> seen;
  for (const fs::path& path : paths) {
    if (!seen.insert(in_full(path)).second) continue;
    fs::path name = in_full(path).lexically_relative(folder);
    full.push_back(name.string());
    images.push_back({path, name.replace_extension().string()});
  }
  for (bool is_clash = true; is_clash;) {
    is_clash = false;
    std::map<std::string, int> counts;
    for (const ImageFile& image : images) ++counts[lower(image.name)];
    for (std::size_t index = 0; index < images.size(); ++index) {
      if (counts[lower(images[index].name)] < 2 || images[index].name == full[index]) continue;
      images[index].name = full[index];
      is_clash = true;
    }
  }
  return images;
}

}  // namespace

std::vector<ImageFile> find_images(const fs::path& path, const std::vector<fs::path>& results) {
  if (!fs::exists(path)) fail(path.string(), ": no such file or folder (--image_path).");
  if (fs::is_directory(path)) return named(in_folder(path, results), path);
  if (lower(path.extension().string()) == ".txt") return named(in_list(path), path.parent_path());
  return named({path}, path.parent_path());
}

}  // namespace segment
