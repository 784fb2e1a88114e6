#include "files.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <memory>

#include "error.h"

namespace segment {

namespace fs = std::filesystem;

namespace {

std::ifstream open_file(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) fail(path.string(), ": no such file.");
  std::ifstream file(path, std::ios::binary);
  if (!file || !fs::is_regular_file(path, ignored)) fail(path.string(), ": cannot be read.");
  return file;
}

}  // namespace

Bytes read_bytes(const fs::path& path) {
  std::ifstream file = open_file(path);
  Bytes content(fs::file_size(path));
  if (content.empty()) fail(path.string(), ": the file is empty. Replace it or remove it.");
  if (!file.read(reinterpret_cast<char*>(content.data()),
                 static_cast<std::streamsize>(content.size())))
    fail(path.string(), ": cannot be read.");
  return content;
}

std::string sha256(const fs::path& path) {
  std::ifstream file = open_file(path);
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  std::vector<char> chunk(1 << 20);
  while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) || file.gcount() > 0)
    EVP_DigestUpdate(context.get(), chunk.data(), static_cast<std::size_t>(file.gcount()));
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  EVP_DigestFinal_ex(context.get(), digest.data(), &length);

  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) {
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

void write_bytes(const fs::path& path, const Bytes& content) {
  const fs::path temporary =
      path.parent_path() / text(".", path.filename().string(), ".", getpid());
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (error) fail(path.parent_path().string(), ": cannot be made (", error.message(), ").");
  std::ofstream file(temporary, std::ios::binary);
  file.write(reinterpret_cast<const char*>(content.data()),
             static_cast<std::streamsize>(content.size()));
  file.close();
  if (file) fs::rename(temporary, path, error);
  if (!file || error) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    fail(path.string(), ": cannot be written. Check the folder's permissions and free space.");
  }
}

}  // namespace segment
