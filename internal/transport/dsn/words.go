package dsn

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// words are the texts of a language. Kinds index the arrays.
type words struct {
	tag     string
	from    string // in front of the sender's address, ASCII
	mime    string // for readers that do not know MIME, ASCII
	subject [4]string
	intro   [4]string // %s is the host
	reasons map[string]string
	answer  string // %s host, %s reply
	reply   string // %s reply
	until   string // %s time
	more    string // %d number
	about   [3]string
	tail    [2]string // whole message, header only
	layout  string    // of times
}

// wordsFor gives the texts of a language tag (RFC 5646), English where there
// are none.
func wordsFor(tag string) *words {
	primary, _, _ := strings.Cut(strings.ReplaceAll(tag, "_", "-"), "-")
	if strings.EqualFold(primary, "de") {
		return german()
	}
	return english()
}

// compose writes the text, with LF.
func (w *words) compose(b *builder) string {
	k := b.report.Kind
	var t strings.Builder
	fmt.Fprintf(&t, w.intro[k]+"\n", b.host())
	for i, c := range b.rows {
		if i == maxTold {
			fmt.Fprintf(&t, "\n"+w.more+"\n", len(b.rows)-i)
			break
		}
		w.recipient(&t, k, c, b.report.Now.Location())
	}
	t.WriteString("\n")
	if s := b.header.subject(); s != "" {
		t.WriteString(w.about[0] + " " + s + "\n")
	}
	if at := b.report.Parent.Received; !at.IsZero() {
		t.WriteString(w.about[1] + " " + at.In(b.report.Now.Location()).Format(w.layout) + "\n")
	}
	t.WriteString(w.about[2] + " " + b.report.Parent.Trace.String() + "\n")
	if strings.Contains(b.returned.header, "headers") {
		t.WriteString("\n" + w.tail[1] + "\n")
	} else {
		t.WriteString("\n" + w.tail[0] + "\n")
	}
	return t.String()
}

func (w *words) recipient(t *strings.Builder, k Kind, c Recipient, zone *time.Location) {
	t.WriteString("\n<" + shown(c.Address) + ">\n")
	if k == Failed || k == Delayed {
		if why := w.reason(c.Status); why != "" {
			t.WriteString("    " + why + "\n")
		}
	}
	if reply := oneLine(c.Text, maxReply, false); reply != "" {
		if c.Code >= 200 && c.Code <= 599 {
			reply = strconv.Itoa(c.Code) + " " + reply
		}
		if host := oneLine(c.Host, 255, false); host != "" {
			fmt.Fprintf(t, "    "+w.answer+"\n", host, reply)
		} else {
			fmt.Fprintf(t, "    "+w.reply+"\n", reply)
		}
	}
	if k == Delayed && !c.Expires.IsZero() {
		fmt.Fprintf(t, "    "+w.until+"\n", c.Expires.In(zone).Format(w.layout))
	}
}

// reason explains an enhanced status code (RFC 3463 and its registry), by its
// two last numbers or by its subject alone.
func (w *words) reason(code string) string {
	_, detail, ok := strings.Cut(code, ".")
	if !ok {
		return ""
	}
	if s, ok := w.reasons[detail]; ok {
		return s
	}
	subject, _, _ := strings.Cut(detail, ".")
	return w.reasons[subject]
}

func english() *words {
	return &words{
		tag:     "en",
		from:    "Mail Delivery System",
		mime:    "This is a report about the delivery of a message, in MIME format.",
		subject: [4]string{"Undeliverable", "Delayed", "Relayed", "Delivered"},
		intro: [4]string{
			"This is the mail system at %s.\n\nYour message could not be delivered to the recipients below. There will be\nno more attempts.",
			"This is the mail system at %s.\n\nYour message could not be delivered to the recipients below YET. You need\nnot send it again: attempts go on, and you will be told if they end without\nsuccess.",
			"This is the mail system at %s.\n\nYour message was given to the mail servers of the recipients below, which\ndo not confirm delivery. You may hear no more of it.",
			"This is the mail system at %s.\n\nYour message was delivered to the recipients below.",
		},
		reasons: map[string]string{
			"1":    "Something is wrong with the address.",
			"1.1":  "The address does not exist. Please check its spelling.",
			"1.2":  "The domain does not exist. Please check its spelling.",
			"1.3":  "The address is not valid.",
			"1.6":  "The recipient has moved and left no new address.",
			"1.10": "The domain accepts no mail.",
			"2":    "Something is wrong with the mailbox.",
			"2.1":  "The mailbox is disabled.",
			"2.2":  "The mailbox is full.",
			"2.3":  "The message is too large for the mailbox.",
			"3":    "The recipient's mail server cannot take the message.",
			"3.4":  "The message is too large.",
			"4":    "The recipient's mail server could not be reached.",
			"4.4":  "No mail server is known for the domain.",
			"4.6":  "The message went round in a circle.",
			"4.7":  "It could not be delivered in the time allowed.",
			"5.3":  "The message has too many recipients.",
			"6":    "The recipient's mail server cannot handle the content.",
			"6.7":  "The recipient's mail server does not support internationalized addresses.",
			"7":    "The message was refused by a rule of the recipient's side.",
			"7.30": "No secure connection to the recipient's mail server was possible, which you asked for.",
		},
		answer: "%s answered: %s",
		reply:  "Details: %s",
		until:  "Attempts go on until %s.",
		more:   "... and %d more recipients, named in the attached report.",
		about:  [3]string{"Subject: ", "Accepted:", "Trace:   "},
		tail:   [2]string{"The message is attached.", "The header of the message is attached."},
		layout: rfc5322,
	}
}

func german() *words {
	return &words{
		tag:     "de",
		from:    "Mailzustellung",
		mime:    "Dies ist ein Zustellbericht im MIME-Format.",
		subject: [4]string{"Unzustellbar", "Verzögert", "Weitergeleitet", "Zugestellt"},
		intro: [4]string{
			"Dies ist das Mailsystem auf %s.\n\nIhre Nachricht konnte den folgenden Empfängern nicht zugestellt werden.\nEs gibt keine weiteren Versuche.",
			"Dies ist das Mailsystem auf %s.\n\nIhre Nachricht konnte den folgenden Empfängern NOCH nicht zugestellt werden.\nSie müssen sie nicht erneut senden: Die Versuche gehen weiter, und Sie werden\nbenachrichtigt, wenn sie ohne Erfolg enden.",
			"Dies ist das Mailsystem auf %s.\n\nIhre Nachricht wurde den Mailservern der folgenden Empfänger übergeben, die\nkeine Zustellung bestätigen. Möglicherweise hören Sie nichts mehr davon.",
			"Dies ist das Mailsystem auf %s.\n\nIhre Nachricht wurde den folgenden Empfängern zugestellt.",
		},
		reasons: map[string]string{
			"1":    "Mit der Adresse stimmt etwas nicht.",
			"1.1":  "Die Adresse gibt es nicht. Bitte prüfen Sie die Schreibweise.",
			"1.2":  "Die Domain gibt es nicht. Bitte prüfen Sie die Schreibweise.",
			"1.3":  "Die Adresse ist nicht gültig.",
			"1.6":  "Der Empfänger ist umgezogen und hat keine neue Adresse hinterlassen.",
			"1.10": "Die Domain nimmt keine Mail an.",
			"2":    "Mit dem Postfach stimmt etwas nicht.",
			"2.1":  "Das Postfach ist abgeschaltet.",
			"2.2":  "Das Postfach ist voll.",
			"2.3":  "Die Nachricht ist zu groß für das Postfach.",
			"3":    "Der Mailserver des Empfängers kann die Nachricht nicht annehmen.",
			"3.4":  "Die Nachricht ist zu groß.",
			"4":    "Der Mailserver des Empfängers war nicht zu erreichen.",
			"4.4":  "Für die Domain ist kein Mailserver bekannt.",
			"4.6":  "Die Nachricht lief im Kreis.",
			"4.7":  "Sie konnte in der erlaubten Zeit nicht zugestellt werden.",
			"5.3":  "Die Nachricht hat zu viele Empfänger.",
			"6":    "Der Mailserver des Empfängers kann mit dem Inhalt nicht umgehen.",
			"6.7":  "Der Mailserver des Empfängers unterstützt keine internationalisierten Adressen.",
			"7":    "Die Nachricht wurde von einer Regel auf der Seite des Empfängers abgewiesen.",
			"7.30": "Eine sichere Verbindung zum Mailserver des Empfängers, wie von Ihnen verlangt, war nicht möglich.",
		},
		answer: "Antwort von %s: %s",
		reply:  "Einzelheiten: %s",
		until:  "Versucht wird es bis %s.",
		more:   "... und %d weitere Empfänger, die im angehängten Bericht stehen.",
		about:  [3]string{"Betreff:    ", "Angenommen: ", "Kennzeichen:"},
		tail:   [2]string{"Die Nachricht ist angehängt.", "Der Kopf der Nachricht ist angehängt."},
		layout: "02.01.2006 15:04:05 -0700",
	}
}
