/* Hostile tokenizer.json and hostile text.
 *
 * Input: one byte that chooses a tokenizer, then, for choice 0, a tokenizer.json up to the first
 * zero byte, then the text. Whatever comes: no crash, no id without token, offsets that never
 * decrease; and byte-level ids give the repaired text back.
 */
#include "engine/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#define SPECIAL(id, content, strip, normalized)                                              \
    "{\"id\":" id ",\"content\":\"" content "\",\"single_word\":" strip ",\"lstrip\":" strip \
    ",\"rstrip\":" strip ",\"normalized\":" normalized ",\"special\":true}"
#define METASPACE_MODEL                                                                            \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<u>\",\"fuse_unk\":true,\"byte_fallback\":true,"  \
    "\"vocab\":{"                                                                                  \
    "\"<u>\":0,\"\u2581\":1,\"a\":2,\"b\":3,\"ab\":4,\"\u2581a\":5,\"aa\":6,\"<0xC3>\":7,\"<0xA9>" \
    "\":8,"                                                                                        \
    "\"e\":9,"                                                                                     \
    "\"\u2581\u2581\":10},\"merges\":[\"a b\",\"\u2581 a\",\"a a\",\"\u2581 \u2581\"]}}"

static const char metaspace[] = "{\"version\":\"1.0\",\"added_tokens\":[" SPECIAL(
    "11", "<x>", "true", "false") "," SPECIAL("12", "b a", "false",
    "true") "],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":"
            "\"Prepend\",\"prepend\":\"\u2581\"},"
            "{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
            "\"},\"content\":\"\u2581\"}]},\"decoder\":{\"type\":"
            "\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
            "\"String\":\"\u2581\"},\"content\":\" \"},"
            "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\","
            "\"content\":\" \",\"start\":1,\"stop\":0}]}," METASPACE_MODEL;

static const char normalized[] = "{\"version\":\"1.0\",\"added_tokens\":[" SPECIAL("11", "\u00e9a",
    "true", "true") "],\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":{\"type\":"
                    "\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
                    "\"individual_digits\":true},{\"type\":\"Metaspace\",\"replacement\":"
                    "\"\u2581\",\"prepend_scheme\":\"first\","
                    "\"split\":true}]},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":"
                    "\"\u2581\",\"prepend_scheme\":\"first\","
                    "\"split\":true}," METASPACE_MODEL;

/* Byte-level: all 256 bytes and a few merges, with the pattern of Llama-3. */
static struct str byte_level_json(void)
{
    struct str out = {0};
    str_add(&out,
        "{\"version\":\"1.0\",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
        "\"type\":"
        "\"Split\","
        "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{"
        "L}+|"
        "\\\\p{N}{1,3}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":"
        "false,"
        "\"trim_offsets\":true,\"use_regex\":false}]},\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{");
    for (unsigned byte = 0, extra = 0; byte < 256; byte++) {
        int printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
        str_addf(&out, "\"\\u%04x\":%u,", printable ? byte : 0x100 + extra, byte);
        extra += !printable;
    }
    str_add(&out,
        "\"aa\":256,\"aaaa\":257,\"\\u0120a\":258,\"xyz\":259},\"merges\":[[\"a\",\"a\"],[\"aa\","
        "\"aa\"],"
        "[\"\\u0120\",\"a\"]]}}");
    return out;
}

static void check(const struct tokenizer *t, const char *text, size_t len, int gives_back)
{
    struct token_list list = {0};
    struct token_stream stream = {0};
    struct str shown = {0}, repaired = {0}, streamed = {0};
    size_t n_replaced = 0, n_token;
    if (tokenizer_encode(t, text, len, true, &list, &n_replaced) != OK) {
        require(list.n == 0 && !gives_back);
        goto done;
    }
    require(tokenizer_repair(&repaired, text, len) == n_replaced);
    for (size_t i = 0; i < list.n; i++) {
        require(tokenizer_token(t, list.ids[i], &n_token) != NULL);
        require(list.begin[i] <= repaired.len);
        require(!gives_back || i == 0 || list.begin[i] >= list.begin[i - 1]);
    }
    if (tokenizer_decode(t, list.ids, list.n, false, &shown) == OK && gives_back) {
        require(shown.len == repaired.len);
        require(shown.len == 0 || memcmp(shown.data, repaired.data, shown.len) == 0);
    }
    for (size_t i = 0; i < list.n && i < 64; i++)
        if (token_stream_push(&stream, t, list.ids[i], &streamed) != OK) break;
    (void)!token_stream_flush(&stream, t, &streamed);
done:
    token_list_clear(&list);
    token_stream_clear(&stream);
    str_clear(&shown);
    str_clear(&repaired);
    str_clear(&streamed);
}

static struct tokenizer *must_parse(const char *json, size_t len)
{
    struct tokenizer *t = NULL;
    require(tokenizer_parse(&t, "fixed.json", json, len, NULL, 0) == OK);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *fixed[3];
    if (!fixed[0]) {
        struct str json = byte_level_json();
        fixed[0] = must_parse(json.data, json.len);
        fixed[1] = must_parse(metaspace, sizeof metaspace - 1);
        fixed[2] = must_parse(normalized, sizeof normalized - 1);
        str_clear(&json);
    }
    if (size == 0) return 0;
    const char *text = (const char *)data + 1;
    size_t len = size - 1, choice = data[0] % 4;
    if (choice > 0) {
        check(fixed[choice - 1], text, len, choice == 1);
        return 0;
    }
    const char *end = memchr(text, 0, len);
    size_t n_json = end ? (size_t)(end - text) : len;
    struct tokenizer *t = NULL;
    if (tokenizer_parse(&t, "hostile.json", text, n_json, text, n_json) != OK) {
        require(t == NULL && *status_message() != 0);
        return 0;
    }
    static const char fallback[] = "a ab\xC3\xA9 \xFF'S 12345\r\n\n  <s>\xF0\x9F\x98\x80";
    check(t, fallback, sizeof fallback - 1, 0);
    if (end) check(t, end + 1, len - n_json - 1, 0);
    tokenizer_close(&t);
    return 0;
}
