// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	prefix  = "holdfast:enc:aesgcm:v1:"
	maxText = 16 << 10
	nonce   = 12
	tag     = 16
)

var keyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// Text is a parsed sealed text.
type Text struct {
	Key  string // id of the key it was sealed under
	data []byte // nonce and ciphertext
}

// String is the text as it is kept.
func (t Text) String() string {
	return prefix + t.Key + ":" + base64.StdEncoding.EncodeToString(t.data)
}

// Parse takes a sealed text apart; it opens nothing. The error does not repeat the text.
func Parse(s string) (Text, error) {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok || len(s) > maxText {
		return Text{}, fmt.Errorf("sealed text: %d bytes, allowed is %s<key id>:<base64> of at most %d", len(s), prefix, maxText)
	}
	id, body, ok := strings.Cut(rest, ":")
	if !ok || !keyID.MatchString(id) {
		return Text{}, errors.New("sealed text: no key id, allowed are 1 to 32 letters, digits, '.', '_' or '-'")
	}
	data, err := base64.StdEncoding.Strict().DecodeString(body)
	// The decoder passes over line breaks; a text has one spelling only.
	if err != nil || strings.ContainsAny(body, "\r\n") {
		return Text{}, errors.New("sealed text: what follows the key id is not base64")
	}
	if len(data) < nonce+tag {
		return Text{}, fmt.Errorf("sealed text: %d bytes after the key id, at least %d are needed", len(data), nonce+tag)
	}
	return Text{Key: id, data: data}, nil
}
