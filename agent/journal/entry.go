// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// Version of the files.
const Version = 1

// maxFile bounds a file, in bytes: what is larger is not ours.
const maxFile = 1 << 20

// room is what a file takes from the beginning, in bytes: that is enough for most commands.
const room = 8 << 10

// Entry is what the agent has written down of one command.
type Entry struct {
	V     int                   `json:"v"`
	ID    string                `json:"id"`
	Spec  command.Spec          `json:"spec"`
	Steps []command.JournalStep `json:"steps"` // the last one is where it stands
}

// Last is where the command stands.
func (e Entry) Last() command.JournalStep {
	if len(e.Steps) == 0 {
		return command.JournalStep{}
	}
	return e.Steps[len(e.Steps)-1]
}

// frame is a line of a file: the first has the entry as it was begun, or as it was written
// anew as a whole, each further one a step. A checksum is over the one before it and the
// bytes of Entry or Step as they stand in the line: no line stands in another file.
type frame struct {
	Sum   string          `json:"sha256"`
	Entry json.RawMessage `json:"entry,omitempty"`
	Step  json.RawMessage `json:"step,omitempty"`
}

// chain is the checksum of a line.
func chain(before string, content []byte) string {
	sum := sha256.Sum256(append([]byte(before), content...))
	return hex.EncodeToString(sum[:])
}

// lineOf is a frame as JSON: content is JSON already and goes in as it stands.
func lineOf(kind, sum string, content []byte) []byte {
	line := make([]byte, 0, len(content)+len(sum)+32)
	line = append(line, `{"sha256":"`+sum+`","`+kind+`":`...)
	return append(append(line, content...), "}\n"...)
}

// encode makes a file of one line, and its checksum.
func encode(e Entry) (line []byte, sum string, err error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, "", fmt.Errorf("encode journal entry %s: %w", e.ID, err)
	}
	sum = chain("", b)
	return lineOf("entry", sum, b), sum, nil
}

// encodeStep makes a further line, and its checksum.
func encodeStep(s command.JournalStep, before string) (line []byte, sum string, err error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, "", fmt.Errorf("encode journal step: %w", err)
	}
	sum = chain(before, b)
	return lineOf("step", sum, b), sum, nil
}

// Why a file is set aside.
var (
	errTorn    = errors.New("torn or damaged")
	errForeign = errors.New("not a journal entry")
	errNewer   = errors.New("of a newer version")
)

// retired is the content of a file whose command is forgotten: the next one can have it. Its
// room is on the disk already, so that writing into it changes nothing but its content.
var retired = append([]byte(`{"forgotten":true}`+"\n"), make([]byte, room)...)[:room]

// decode reads the content of a file. What follows its last whole line is a step whose
// write was not finished, and was never acted on; it is not in the entry.
func decode(b []byte) (e Entry, sum string, unfinished []byte, err error) {
	if len(b) > maxFile {
		return e, "", nil, fmt.Errorf("%w: %d bytes, at most %d are", errForeign, len(b), maxFile)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return e, "", nil, fmt.Errorf("%w: empty", errTorn)
	}
	b = bytes.TrimRight(b, "\x00") // room for further lines
	whole := bytes.LastIndexByte(b, '\n') + 1
	if whole == 0 {
		return e, "", nil, fmt.Errorf("%w: no whole line", errTorn)
	}
	for n, line := range bytes.Split(b[:whole-1], []byte("\n")) {
		var f frame
		if err := json.Unmarshal(line, &f); err != nil {
			return Entry{}, "", nil, fmt.Errorf("%w: line %d: %w", errTorn, n+1, err)
		}
		content := f.Step
		if n == 0 {
			content = f.Entry
		}
		if f.Sum == "" || len(content) == 0 {
			return Entry{}, "", nil, fmt.Errorf("%w: line %d: no checksum", errForeign, n+1)
		}
		if chain(sum, content) != f.Sum {
			return Entry{}, "", nil, fmt.Errorf("%w: line %d: its checksum is another", errTorn, n+1)
		}
		sum = f.Sum
		if n == 0 {
			e, err = decodeEntry(content)
		} else {
			err = e.add(content)
		}
		if err != nil {
			return Entry{}, "", nil, err
		}
	}
	return e, sum, b[whole:], nil
}

func (e *Entry) add(content []byte) error {
	var s command.JournalStep
	if err := json.Unmarshal(content, &s); err != nil {
		return fmt.Errorf("%w: %w", errForeign, err)
	}
	if s.Seq != len(e.Steps)+1 {
		return fmt.Errorf("%w: step %d is numbered %d", errForeign, len(e.Steps)+1, s.Seq)
	}
	e.Steps = append(e.Steps, s)
	return nil
}

func decodeEntry(content []byte) (e Entry, err error) {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(content, &head); err != nil {
		return e, fmt.Errorf("%w: %w", errForeign, err)
	}
	if head.V > Version {
		return e, fmt.Errorf("%w: %d, this agent knows %d", errNewer, head.V, Version)
	}
	if err := json.Unmarshal(content, &e); err != nil {
		return e, fmt.Errorf("%w: %w", errForeign, err)
	}
	if e.V < 1 || len(e.Steps) == 0 {
		return e, fmt.Errorf("%w: v is %d, %d steps", errForeign, e.V, len(e.Steps))
	}
	if err := CheckID(e.ID); err != nil {
		return e, fmt.Errorf("%w: %w", errForeign, err)
	}
	for i, s := range e.Steps {
		if s.Seq != i+1 {
			return e, fmt.Errorf("%w: step %d is numbered %d", errForeign, i+1, s.Seq)
		}
	}
	return e, nil
}

// idRegexp: an id is the name of a file.
var idRegexp = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CheckID tests a command's id before it becomes the name of a file.
func CheckID(id string) error {
	if !idRegexp.MatchString(id) {
		return fmt.Errorf("command id %q: want 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit", id)
	}
	return nil
}
