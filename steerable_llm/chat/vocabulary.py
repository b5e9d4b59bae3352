"""The words that mark retrieved text in prompts and the question beside it.

They are regular expressions, and `chat/layout.py` reads prompts with them. A language is added by
its words here: nouns for retrieved text, for the question and for the answer.
"""

import re
from collections.abc import Sequence

# Nouns for retrieved text. The strong ones hardly ever mean anything else in a prompt; the weak ones
# are also what people call their own text. As regular expressions, in the languages that teams of
# ours write prompts in.
STRONG = (
    # English
    r"contexts?", r"documents?", r"docs", r"passages?", r"excerpts?", r"snippets?", r"chunks?",
    r"extracts?", r"extracted parts", r"sources?", r"search results?", r"knowledge base",
    r"knowledge source", r"background information", r"retrieved (?:text|texts|information|data|content|facts|articles?)",
    r"context(?:ual)? information", r"(?:sql|query|tool) (?:responses?|results?)", r"portions? of a (?:long )?document",
    # German, Dutch, French, Spanish, Italian, Portuguese
    r"kontext\w*", r"dokumente?n?", r"textstellen?", r"textauszüge", r"auszüge", r"quellen",
    r"fundstellen", r"documenten", r"bronnen", r"fragmenten", r"contextes?", r"extraits?",
    r"contextos?", r"documentos?", r"fragmentos?", r"fuentes", r"pasajes?", r"contest[oi]",
    r"document[oi]", r"brani", r"fonti", r"trechos?", r"fontes",
    # Polish, Czech, Russian, Ukrainian, Turkish, Swedish
    r"kontekst\w*", r"dokument\w*", r"fragmenty", r"źródła", r"контекст\w*", r"документ\w*",
    r"источник\w*", r"фрагмент\w*", r"отрыв\w*", r"bağlam\w*", r"belge(?:ler)?", r"kaynaklar",
    r"sammanhang", r"källor",
    # Chinese, Japanese, Korean, Arabic, Hindi
    r"上下文(?:信息)?", r"背景(?:信息|资料|知识)", r"文档", r"文檔", r"参考(?:资料|文档|信息|文献)",
    r"检索(?:结果|内容)", r"検索結果", r"コンテキスト", r"文脈", r"文書", r"ドキュメント", r"参考情報",
    r"컨텍스트", r"문맥", r"문서", r"참고 ?자료", r"السياق", r"سياق", r"المستندات", r"الوثائق",
    r"संदर्भ", r"दस्तावेज़?",
    # Vietnamese, Indonesian, Thai, Hebrew, Persian, Greek, Hungarian, Romanian
    r"ngữ cảnh", r"tài liệu", r"konteks", r"dokumen", r"บริบท", r"เอกสาร", r"הקשר", r"מסמכים",
    r"زمینه", r"اسناد", r"πλαίσιο", r"έγγραφα", r"szövegkörnyezet", r"documente",
)  # fmt: skip
_WEAK = (
    r"texts?", r"information", r"articles?", r"facts?", r"background(?: information)?",
    r"materials?", r"references?", r"evidence", r"contents?", r"notes?", r"data",
    r"texte?", r"informationen", r"hintergrund", r"informations", r"informaci[oó]n",
    r"informazioni", r"informações", r"tekst", r"текст", r"資料", r"资料", r"文本", r"자료",
)  # fmt: skip
_QUALIFIERS = (
    r"retrieved", r"relevant", r"additional", r"provided", r"given", r"supporting", r"reference",
    r"source", r"search", r"background", r"more", r"new", r"external", r"extra", r"the",
    r"available", r"knowledge", r"company", r"product", r"internal", r"related", r"following",
    r"here (?:is|are)", r"these are", r"this is", r"some", r"factual",
    r"relevante?n?", r"gefundene?", r"abgerufene?", r"folgende[rns]?", r"der", r"die", r"le", r"les",
    r"el", r"los", r"il", r"o", r"os", r"相关", r"参考", r"検索された", r"관련",
)  # fmt: skip
_QUESTIONS = (
    r"(?:(?:the|search|user|user's|new|follow[- ]?up|standalone|original|current|my|customer) )?"
    r"(?:question|query|input|request)s?",
    r"q", r"follow[- ]?up (?:message|input|question)", r"(?:die |benutzer)?fragen?", r"(?:la )?question(?: de l['’]utilisateur)?",
    r"(?:la )?pregunta(?: del usuario)?", r"domanda", r"pergunta", r"vraag", r"pytanie", r"otázka",
    r"вопрос", r"запрос", r"питання", r"soru", r"fråga", r"问题", r"問題", r"用户问题", r"质问",
    r"質問", r"질문", r"سؤال", r"السؤال", r"प्रश्न", r"câu hỏi", r"pertanyaan", r"คำถาม", r"שאלה",
    r"سوال", r"پرسش", r"ερώτηση", r"kérdés", r"întrebare", r"kysymys", r"spørgsmål", r"spørsmål",
)  # fmt: skip
_ANSWERS = (
    r"(?:(?:final|helpful|refined|new|your|short|concise|standalone|useful) )?answer",
    r"a", r"reply", r"(?:sql )?response", r"next question", r"new question", r"(?:a )?standalone question", r"extracted relevant parts",
    r"relevant text, if any", r"output", r"feedback", r"antwort", r"réponse", r"respuesta",
    r"risposta", r"resposta", r"antwoord", r"odpowiedź", r"ответ", r"cevap", r"yanıt", r"svar",
    r"答案", r"回答", r"答え", r"답변", r"대답", r"الجواب", r"الإجابة", r"उत्तर",
)  # fmt: skip
# Who speaks, where a prompt is written as a dialogue. Logged dialogues are retrieved text as well, so
# that the word of a user is a weaker mark of the question than those above.
_USERS = (
    r"(?:end[- ]?)?user", r"human", r"customer", r"client", r"student", r"visitor", r"guest", r"patient", r"caller",
    r"me", r"you", r"(?:be)?nutzer(?:in)?", r"kund(?:e|in)", r"utilisat(?:eur|rice)", r"usuari[oa]", r"cliente",
    r"utente", r"gebruiker", r"klant", r"użytkownik", r"uživatel", r"klient", r"пользователь", r"клиент",
    r"користувач", r"kullanıcı", r"användare", r"bruger", r"bruker", r"käyttäjä", r"用[户戶]", r"客户",
    r"ユーザー", r"お客様", r"사용자", r"고객", r"(?:ال)?مستخدم", r"उपयोगकर्ता", r"người dùng", r"pengguna",
    r"ผู้ใช้", r"משתמש", r"کاربر", r"χρήστης", r"felhasználó", r"utilizator",
)  # fmt: skip
_ASSISTANTS = (
    r"(?:ai|assistant|bot|agent)(?: (?:answer|response|reply))?", r"ai assistant", r"chat ?bot", r"chatgpt",
    r"support(?: agent)?", r"model", r"tutor", r"teacher", r"expert", r"ki", r"ia", r"assistent(?:in|e)?",
    r"assistante", r"asistente?", r"asystent", r"ассистент", r"помощник", r"помічник", r"asistan", r"助手", r"助理",
    r"アシスタント", r"어시스턴트", r"(?:ال)?مساعد", r"सहायक", r"trợ lý", r"asisten", r"ผู้ช่วย", r"עוזר", r"دستیار",
    r"βοηθός", r"asszisztens", r"avustaja",
)  # fmt: skip
# Headings of what is neither retrieved nor asked. They end retrieved text.
_OTHERS = (
    r"instructions?", r"guidelines?", r"rules?", r"chat history", r"conversation(?: history)?",
    r"history", r"output format", r"response format", r"task", r"existing answer",
    r"original answer", r"current conversation", r"anweisung(?:en)?", r"aufgabe", r"regeln",
    r"consignes?", r"instrucci(?:ón|ones)", r"istruzioni", r"instruções", r"指示", r"要求", r"说明",
)  # fmt: skip


def any_of(words: Sequence[str]) -> str:
    """Return an expression for any of some words."""
    return f"(?:{'|'.join(words)})"


# What may stand around a heading: Markdown, quotes, brackets, numbers of a list, DSPy's marks.
_BLANK = r"[ \t]{0,16}"  # bounded, since two of these may stand side by side
_LEAD = rf"^{_BLANK}(?P<lead>(?:\[\[ ## )?[#>*=_~\[【(-]{{0,16}}{_BLANK}(?:\d{{1,2}}[.)][ \t]+)?[*_]{{0,3}})"
_TAIL = (
    rf"(?: ## \]\])?{_BLANK}(?P<close>[*_\])】=~-]{{0,16}}){_BLANK}(?P<colon>[:：]?){_BLANK}[*_]{{0,3}}"
    rf"{_BLANK}(?P<rest>.*)$"
)
COLON = re.compile(r"[:：][ \t*_]*$")
_NOUN = re.compile(rf"(?i)(?<!\w){any_of(STRONG)}(?!\w)")
_NOUN_CJK = re.compile(rf"{any_of([x for x in STRONG if not x.isascii()])}")
ANY_NOUN = re.compile(rf"(?i)(?<!\w){any_of((*STRONG, *_WEAK))}(?!\w)")
_MORE = (
    r"(?:[ \t]+(?:information|from|of|passages?|documents?|texts?|data|above|below|[^\W\d]{4,}))"
)
SECTION = re.compile(
    rf"(?im){_LEAD}(?P<phrase>(?:{any_of(_QUALIFIERS)}[ \t]*){{0,5}}"
    rf"(?:(?P<strong>{any_of(STRONG)})|(?P<weak>{any_of(_WEAK)}))(?!\w){_MORE}{{0,2}}"
    rf"(?:[ \t]*\([^)\n]{{0,60}}\))?){_TAIL}"
)
QUESTION = re.compile(
    rf"(?im){_LEAD}(?P<phrase>{any_of(_QUESTIONS)}(?!\w)(?:[ \t]*\([^)\n]{{0,60}}\))?){_TAIL}"
)
QUESTION_WITHIN = re.compile(
    rf"(?i)(?<=[\s.!?。])(?P<phrase>{any_of(_QUESTIONS)})[ \t]*[:：](?=\s*\S)"
)
OTHER = re.compile(rf"(?im){_LEAD}(?P<phrase>{any_of(_OTHERS)}(?!\w)){_TAIL}")
TURN = re.compile(
    rf"(?im){_LEAD}(?P<phrase>(?:(?P<user>{any_of(_USERS)})|{any_of(_ASSISTANTS)})(?!\w)){_TAIL}"
)
"""Where somebody speaks in a dialogue, the user or who answers."""
LABEL = re.compile(r"(?m)^[ \t>#*]*[^\W\d][\w' -]{0,30}[:：]")
ANSWER_CUE = re.compile(
    rf"(?im)^[ \t>#*]*(?:(?P<assistant>{any_of(_ASSISTANTS)})|{any_of(_ANSWERS)})(?:[ \t]*\([^)\n]{{0,60}}\))?[ \t*]*[:：][ \t*]*(?:\"\"\")?[ \t\n]*\Z"
)
"""What prompts end with to call for the answer; it is neither text nor question."""
ANSWERED = re.compile(
    rf"(?im)^[ \t>#*]*{any_of(_ANSWERS)}[ \t*]*[:：][ \t*]*(?P<answer>\S.*|\n[ \t]*\S.*)$"
)
NUMBERED = re.compile(r"(?m)^[ \t]*\[\d{1,3}\][ \t:.)-]+\S")
ENTRY = re.compile(
    r"(?im)^[ \t\[#*=-]*(?:document|doc|source|passage|excerpt|chunk|snippet|dokument|quelle|"
    r"fuente|fonte|文档|文書|문서)[ \t]*#?\[?\d{1,3}\]?[ \t\]*=-]*(?:\([^)\n]*\)|[:：]|$)"
)
SOURCE = re.compile(r"(?im)^[ \t]*source[ \t]*:.*$")
CONTENT = re.compile(r"(?im)^[ \t]*(?:page[_ ])?content[ \t]*:")
OBJECTS = re.compile(r"\bDocument\((?:id|metadata|page_content)=")
FENCE = re.compile(
    r"(?m)^(?:[ \t]*(?P<line>-{4,}|={4,}|_{5,}|\*{5,}|~{3,}|#{7,}|`{3,}[\w-]*|\"{3}|'{3}|>{3})"
    r"|.*?(?P<end>(?<![-=])(?:-{10,}|={10,})))[ \t]*$"
)
TAG = re.compile(
    rf"(?i)<(?P<close>/?)(?P<name>(?:[a-z]+[_-])?"
    rf"{any_of([*STRONG, 'texts?', 'references?', 'facts', 'background', 'knowledge', 'doc'])}"
    rf"(?:[_-]?\w+)?)(?P<attributes>(?:[ \t][^<>\n]*)?)>"
    rf"|\[(?P<close2>/?)(?P<name2>context|documents?|sources?|passages?|doc)\](?![(:\]])"
)
# Attributes that pages and drawings have, and retrieved text has not.
OF_PAGES = re.compile(r"(?i)\b(?:src|href|class|style|x|y|width|height|type)\s*=|/\s*$")
CODE = re.compile(r"(?ms)^[ \t]*```.*?^[ \t]*```")

_NEAR = r"[^.!?\n。]{0,70}?"
ANNOUNCED = re.compile(
    rf"(?i)(?:(?<=[.!?。][ \n]){any_of(STRONG)}[:：][ \t]*$|(?:\b(?:following|below|retrieved|provided|given|these|this|here (?:is|are)|"
    rf"folgende\w*|nachstehend\w*|unten|suivante?s?|ci-dessous|siguientes?|seguenti|seguintes?|"
    rf"следующ\w*|ниже|aşağıda\w*)\b|以下|下面|次の|下記|다음|아래|التالي)"
    rf"{_NEAR}(?<!\w){any_of(STRONG)}(?!\w)"
    rf"|(?<!\w){any_of(STRONG)}(?!\w){_NEAR}(?:\b(?:below|follows?|following|shown|unten|folgen\w*|"
    rf"ci-dessous|suivants?|siguientes?|seguenti|seguintes?|ниже|aşağıda\w*)\b|如下|以下|下記|아래)"
    rf"|(?:以下|下面|次の|下記|다음|根据|基于){_NEAR}{_NOUN_CJK.pattern}"
    rf"|\b(?:following|below|given|these|this|provided)\b{_NEAR}(?<!\w){any_of(_WEAK)}(?!\w)"
    rf"{_NEAR}[:：][ \t]*$)"
)
LOOSELY = re.compile(
    rf"(?i)\b(?:answer\w*|us(?:e|es|ing)|based (?:up)?on|ground\w*|rel(?:y|ying) on|refer\w* to|"
    rf"consult|according to|from|with|beantworte\w*|antworte\w*|verwende\w*|nutze|réponds|répondez|"
    rf"utilise|responde|usa|rispondi|отвечай|ответь|используй)\b"
    rf"(?:[ \t]+[\w'’]+){{0,9}}?[ \t]+{any_of(STRONG)}(?!\w)"
)
CONTEXT = re.compile(r"(?i)[ck]onte[xks]|контекст|bağlam")
BACK = re.compile(
    rf"(?i)(?:\b(?:above|preceding|previous|obige\w*|oben|ci-dessus|anterior(?:es)?|выше)\b{_NEAR}"
    rf"(?<!\w){any_of((*STRONG, *_WEAK))}(?!\w)"
    rf"|(?<!\w){any_of((*STRONG, *_WEAK))}(?!\w){_NEAR}(?:\b(?:above|oben|ci-dessus|выше)\b)"
    rf"|(?:上述|以上|上記|위)の?{_NEAR}{_NOUN_CJK.pattern})"
)
# What a prompt says in the place of text, where nothing was retrieved.
_FOUND = (
    r"(?:found|available|provided|given|retrieved|returned|matched|gefunden|trouvée?s?|"
    r"encontrad[oa]s?|trovat[oaie])"
)
NOTHING_FOUND = re.compile(
    rf"(?i)\W*(?:none|nothing|n/a|null|empty|(?:none|nothing|not)\s(?:\w+\s){{0,2}}{_FOUND}|"
    r"(?:no|there (?:are|is|were|was) no|keine?|aucune?|ningún|ninguna|nessuna?|nenhuma?)\s"
    rf"(?:(?:\w+\s){{1,4}}{_FOUND}|(?:\w+\s){{0,2}}(?:results?|matches|hits|{any_of(STRONG)})))\W*"
)
# What is to be done with somebody's own text.
TASK = re.compile(
    r"(?i)^\W*(?:please\s+)?(?:can you\s+)?(?:translate|summari[sz]e|rewrite|proofread|correct|sort|"
    r"classify|paraphrase|fix|edit|review|format|explain|improve|shorten|count|extract|convert|"
    r"rename|list|check|compare|tag|write|draft|create|generate|delete|upload|sign|"
    r"übersetze|traduis|traduce|traduci|traduza|переведи)\b"
)
# How sentences open that say how to answer, and not what is so.
DIRECTIVE = re.compile(
    r"(?i)^[\W\d]*(?:(?:answer|respond|reply|return|be|do not|don['’]t|always|never|keep|"
    r"use|you are|you['’]re|you must|you should|your (?:task|role|job|answer)|if (?:you (?:don['’]t|do not|can|need|are)|the (?:context|"
    r"answer|question|user|document|information|existing|none)|it|no|there)\b.*\b(?:say|know|answer|"
    r"context|return|reply|respond|ask)|please|"
    r"think|speak|write|cite|quote|only|make sure|ensure|remember|note that|treat|say|avoid|"
    r"repeat|rewrite|when in doubt|now given|try to|it is better|some rules|rules|guidelines|given the|based on|in addition to|explain|provide|stay|limit|"
    r"refuse|mention|format|let['’]s|antworte|beantworte|sei|wenn du|verwende|nutze|bitte|réponds|"
    r"répondez|si tu|si vous|utilise|responde|si no|usa|rispondi|se non|ответь|отвечай|если ты|"
    r"请|回答|如果|必要|如不|答えて)\b|请|回答|如果|\S*答えて)"
)
# What a system message lists that is not retrieved.
OF_INSTRUCTIONS = re.compile(
    r"(?i)\b(?:rules?|guidelines?|instructions?|tools?|steps?|formats?|examples?|tasks?|skills?|"
    r"functions?|languages?|persona|principles?|policies|style|tone)\b"
)
OWN_WORDS = re.compile(
    r"(?i)(?<!\w)(?:i|i['’]m|i['’]ve|i['’]d|my|me|myself|ich|mein\w*|je|j['’]\w+|mon|ma|yo|mi|soy)(?!\w)"
)
OURS = re.compile(r"(?i)^\W*(?:we|we['’]re|our)(?!\w)")
BREAK = re.compile(r"\n[ \t]*\n\s*")
