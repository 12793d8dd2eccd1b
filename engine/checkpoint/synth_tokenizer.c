#include "engine/checkpoint/synth.h"

#include "base/file.h"
#include "base/str.h"

#include <stdlib.h>

/* Byte-level BPE writes each byte as one printable character: printable Latin-1 as itself, the rest
 * in order from U+0100 (Radford et al., GPT-2, 2019). */
static int byte_character(int byte)
{
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174) return byte;
    if (byte <= 32) return 256 + byte;
    if (byte <= 160) return 256 + 33 + (byte - 127);
    return 256 + 67; /* 173, the soft hyphen */
}

static void add_character(struct str *s, int c)
{
    if (c == '"' || c == '\\') str_add_char(s, '\\');
    if (c < 0x80) {
        str_add_char(s, (char)c);
        return;
    }
    str_add_char(s, (char)(0xc0 | c >> 6));
    str_add_char(s, (char)(0x80 | (c & 0x3f)));
}

static void add_special(struct str *s, int id, const char *text)
{
    str_addf(s,
        "    {\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
        "\"rstrip\": false, "
        "\"normalized\": false, \"special\": true}",
        id, text);
}

#define BOS_TEXT "<|begin_of_text|>"
#define EOS_TEXT "<|end_of_text|>"

/* The Llama-3 division into words; without merges it changes no id, but the file has the family's
 * form. */
static const char pipeline[] =
    "  \"normalizer\": null,\n"
    "  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
    "    {\"type\": \"Split\", \"behavior\": \"Isolated\", \"invert\": false, \"pattern\": "
    "{\"Regex\":\n"
    "     \"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},\n"
    "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true,\n"
    "     \"use_regex\": false}]},\n"
    "  \"post_processor\": {\"type\": \"Sequence\", \"processors\": [\n"
    "    {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": false,\n"
    "     \"use_regex\": true},\n"
    "    {\"type\": \"TemplateProcessing\",\n"
    "     \"single\": [{\"SpecialToken\": {\"id\": \"" BOS_TEXT "\", \"type_id\": 0}},\n"
    "                {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}],\n"
    "     \"pair\": [{\"SpecialToken\": {\"id\": \"" BOS_TEXT "\", \"type_id\": 0}},\n"
    "              {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}},\n"
    "              {\"SpecialToken\": {\"id\": \"" BOS_TEXT "\", \"type_id\": 1}},\n"
    "              {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}],\n"
    "     \"special_tokens\": {\"" BOS_TEXT "\": {\"id\": \"" BOS_TEXT "\", \"ids\": [256],\n"
    "                         \"tokens\": [\"" BOS_TEXT "\"]}}}]},\n"
    "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true,\n"
    "              \"use_regex\": true},\n"
    "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,\n"
    "    \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false,\n"
    "    \"byte_fallback\": false, \"ignore_merges\": true,\n"
    "    \"vocab\": {";

static const char tokenizer_config[] = "{\n"
                                       "  \"bos_token\": \"" BOS_TEXT "\",\n"
                                       "  \"eos_token\": \"" EOS_TEXT "\",\n"
                                       "  \"clean_up_tokenization_spaces\": false,\n"
                                       "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n"
                                       "}\n";

static enum status write_text(const char *dir, const char *name, const char *text, size_t len)
{
    char *path = path_join(dir, name);
    enum status st = file_write_atomic(path, text, len);
    free(path);
    return st;
}

enum status synth_write_tokenizer(const char *dir)
{
    struct str s = {0};
    str_add(&s,
        "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  "
        "\"added_tokens\": [\n");
    add_special(&s, SYNTH_BOS, BOS_TEXT);
    str_add(&s, ",\n");
    add_special(&s, SYNTH_EOS, EOS_TEXT);
    str_add(&s, "],\n");
    str_add(&s, pipeline);
    for (int byte = 0; byte < 256; byte++) {
        str_add(&s, byte == 0 ? "\"" : byte % 16 == 0 ? ",\n      \"" : ", \"");
        add_character(&s, byte_character(byte));
        str_addf(&s, "\": %d", byte);
    }
    str_add(&s, "},\n    \"merges\": []}\n}\n");
    enum status st = write_text(dir, "tokenizer.json", s.data, s.len);
    if (st == OK)
        st =
            write_text(dir, "tokenizer_config.json", tokenizer_config, sizeof tokenizer_config - 1);
    str_clear(&s);
    return st;
}
